"""Publishers that number their messages, and subscribers that look for each number once and in order."""

import asyncio
import json
from collections import defaultdict
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.processes import wait_until_async

TOPIC = "traffic"


class Audience:
    """A subscriber that stays, and comes back to the server that it lost."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.numbers: dict[str, list[int]] = defaultdict(list)
        """The received messages, by publisher."""
        self.flags: dict[str, set[bool]] = defaultdict(set)
        """True if it came from a peer, by publisher."""
        self.subscribed = asyncio.Event()
        self._task = asyncio.create_task(self._listen())

    async def __aenter__(self) -> "Audience":
        async with asyncio.timeout(20):
            await self.subscribed.wait()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _listen(self) -> None:
        while True:
            with suppress(OSError, ConnectionClosed, InvalidHandshake):
                async with connect(self.url, compression=None, max_queue=None) as connection:
                    await connection.send(json.dumps({"type": "subscribe", "topic": TOPIC}))
                    async for frame in connection:
                        self._take(json.loads(frame))
            await asyncio.sleep(0.05)

    def _take(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "ack":
            self.subscribed.set()
        else:
            publisher, number = frame["message"]
            self.numbers[publisher].append(number)
            self.flags[publisher].add(frame.get("fromPeerServer", False))

    def has(self, publisher: str, count: int) -> bool:
        """Return whether this many have come, or the last of them has."""
        numbers = self.numbers[publisher]
        return len(numbers) >= count or (bool(numbers) and numbers[-1] == count - 1)

    async def has_so_many(self, publisher: str, count: int, timeout: float = 60.0) -> None:
        """Wait for that many messages of ``publisher``."""
        await wait_until_async(lambda: len(self.numbers[publisher]) >= count, timeout)

    async def gets(self, publisher: str, count: int, timeout: float = 60.0) -> None:
        """Wait for messages 0 to ``count`` - 1 of ``publisher``: each once, and in order."""
        with suppress(AssertionError):  # what is missing is told below
            await wait_until_async(lambda: self.has(publisher, count), timeout)
        numbers = self.numbers[publisher]
        missing = sorted(set(range(count)) - set(numbers))
        twice = (
            sorted({number for number in numbers if numbers.count(number) > 1})
            if len(numbers) > count
            else []
        )
        assert not missing, f"{len(missing)} missing at {self.url}: {missing[:5]} … {missing[-5:]}"
        assert not twice, f"twice at {self.url}: {twice[:10]}"
        assert numbers == list(range(count)), f"out of order at {self.url}"


async def publish_until(stop: asyncio.Event, url: str, publisher: str, rate: float) -> int:
    """Publish ``rate`` messages a second until ``stop`` is set, and return how many; each is acknowledged."""
    count = 0
    while not stop.is_set():
        await publish(url, publisher, count + int(rate), first=count, rate=rate)
        count += int(rate)
    return count


async def publish(
    url: str, publisher: str, count: int, *, first: int = 0, rate: float | None = None
) -> None:
    """Publish messages ``first`` to ``count`` - 1, so many a second, and wait until each is acknowledged."""
    loop = asyncio.get_running_loop()
    async with connect(url, compression=None, max_queue=None) as connection:

        async def acked() -> None:
            for _ in range(first, count):
                frame = json.loads(await connection.recv())
                assert frame["type"] == "ack", frame

        acks = asyncio.create_task(acked())
        started = loop.time()
        for number in range(first, count):
            await connection.send(
                json.dumps(
                    {
                        "type": "publish",
                        "topic": f"{TOPIC}.{publisher}",
                        "message": [publisher, number],
                    }
                )
            )
            if rate is not None:
                await asyncio.sleep(max(0.0, started + (number - first) / rate - loop.time()))
            elif number % 100 == 0:
                await asyncio.sleep(0)  # let the acks in
        await acks
