"""Clients that recover, on the raw wire: what docs/reference/protocol.md asks of a client, and no more."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from tests.chaos.record import Message, Position, Publisher, Segment, Subscription

BACKOFF = (0.02, 0.2)
KEEP_ALIVE = 0.3
"""Seconds between requests of a client that does nothing else: their acks tell how far the log is."""
OPEN_TIMEOUT = 5.0
WINDOW = 16

Frame = dict[str, Any]


class Client:
    """A client that comes back, each time to any of the server's processes."""

    def __init__(self, name: str, urls: Sequence[str]) -> None:
        self.name = name
        self.urls = urls
        self.connections = 0
        self.faults: list[str] = []
        """Statements of the server that it must not make."""
        self._moments = random.Random(name)
        self._task: asyncio.Task[None] | None = None
        self._connection: ClientConnection | None = None
        self._chosen = ""

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def move_to(self, url: str) -> None:
        """Lose the connection, and come back to this process until that works."""
        self._chosen = url
        if self._connection is not None:
            self._connection.transport.abort()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()

    async def _run(self) -> None:
        while True:
            with suppress(
                OSError, ConnectionClosed, InvalidHandshake, InvalidMessage, TimeoutError
            ):
                async with connect(
                    self._chosen or self._moments.choice(self.urls),
                    compression=None,
                    max_queue=None,
                    ping_interval=None,
                    open_timeout=OPEN_TIMEOUT,
                    close_timeout=0.1,
                    proxy=None,
                ) as connection:
                    self.connections += 1
                    self._connection, self._chosen = connection, ""
                    await self._talk(connection)
            self._connection = None
            self._lost()
            await asyncio.sleep(self._moments.uniform(*BACKOFF))

    async def _talk(self, connection: ClientConnection) -> None:
        raise NotImplementedError

    def _lost(self) -> None:
        """Take note that the connection is gone."""


class Subscriber(Client):
    """Subscribes to topics and keeps one cursor for all of them."""

    def __init__(self, name: str, urls: Sequence[str], topics: Sequence[str]) -> None:
        super().__init__(name, urls)
        self.subscriptions = {topic: Subscription(name, topic) for topic in topics}
        self.position: Position | None = None
        """Everything up to here was handed over."""
        self.repeated = 0
        """Number of deliveries that had come before, as far as this client knows."""
        self.reset_frames = 0
        self.resets: list[str] = []
        self.without_log = 0
        """Number of acks of processes that could not read the log yet."""
        self._last: dict[str, int] = {}
        """The offset of the last delivery, by topic."""
        self._resuming = False
        self.is_ready = False
        """True while all its subscriptions stand."""

    def has(self, position: Position) -> bool:
        """Return whether everything up to ``position`` has been handed over."""
        return (
            self.is_ready
            and self.position is not None
            and self.position.epoch == position.epoch
            and self.position.offset >= position.offset
        )

    def finish(self) -> None:
        """Close the last segment of each subscription."""
        for subscription in self.subscriptions.values():
            self._end(subscription)

    async def _talk(self, connection: ClientConnection) -> None:
        if self.position is None:
            for topic in self.subscriptions:
                request = {"type": "subscribe", "topic": topic, "last": 0, "id": topic}
                await connection.send(json.dumps(request))
        else:
            await self._resume(connection, self.position)
        keeping = asyncio.create_task(self._keep_alive(connection))
        try:
            async for text in connection:
                self._take(json.loads(text))
        finally:
            keeping.cancel()

    async def _resume(self, connection: ClientConnection, since: Position) -> None:
        self._resuming = True
        for topic, subscription in self.subscriptions.items():
            if not subscription.segments:  # the ack of its subscribe was lost
                self._begin(topic, since)
        request = {
            "type": "resume",
            "since": f"{since.epoch}:{since.offset}",
            "topics": list(self.subscriptions),
            "id": "resume",
        }
        await connection.send(json.dumps(request))

    async def _keep_alive(self, connection: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(KEEP_ALIVE)
                await connection.send('{"type":"unsubscribe","topic":"keep.alive"}')

    def _lost(self) -> None:
        self._resuming = self.is_ready = False

    def _take(self, frame: Frame) -> None:
        match frame["type"]:
            case "publish":
                self._take_delivery(frame)
            case "ack":
                self._take_ack(frame)
            case "reset":
                self.reset_frames += 1
                start = Position.parse(frame["cursor"])
                for topic in self.subscriptions:
                    self._reset(topic, start)
                self.position = start
                self.is_ready = not self._resuming
            case "error" if "id" not in frame:
                if "cursor" in frame:  # the server is going away
                    self._advance(Position.parse(frame["cursor"]))
            case _:
                self.faults.append(f"{self.name}: {frame}")

    def _take_delivery(self, frame: Frame) -> None:
        topic, offset = frame["context"], frame["offset"]
        if offset <= self._last.get(topic, 0):
            self.repeated += 1
            return
        self._last[topic] = offset
        epoch = self._epoch
        segment = self.subscriptions[topic].segments[-1]
        message = Message(*frame["message"][: len(Message._fields)])
        segment.received.append((Position(epoch, offset), message))
        levels = topic.split(".")
        above = {".".join(levels[:count]) for count in range(1, len(levels))}
        # A copy for a topic above is still to come.
        reached = offset - 1 if above & self.subscriptions.keys() else offset
        if self.position is not None and reached > self.position.offset:
            self.position = Position(epoch, reached)

    @property
    def _epoch(self) -> str:
        assert self.position is not None, "a delivery came before any ack"
        return self.position.epoch

    def _take_ack(self, frame: Frame) -> None:
        if "cursor" not in frame:
            self._lose_log(frame)
            return
        cursor = Position.parse(frame["cursor"])
        if frame["action"] == "subscribe":
            self._begin(frame["topic"], cursor)
        elif frame["action"] == "resume":
            self._resuming = False
            for topic, answer in frame["topics"].items():
                if "error" in answer:
                    self.faults.append(f"{self.name}: {topic}: {answer}")
                elif not answer["recovered"]:
                    self._reset(topic, cursor)
        self._advance(cursor)
        started = all(one.segments for one in self.subscriptions.values())
        self.is_ready = started and not self._resuming

    def _lose_log(self, frame: Frame) -> None:
        """Take note that this process has no log yet: a ``reset`` comes once it has."""
        self._resuming = self.is_ready = False
        for topic, subscription in self.subscriptions.items():
            if frame.get("topics", {}).get(topic, {}).get("recovered"):
                self.faults.append(f"{self.name}: recovered without a log: {frame}")
            self._end(subscription)
        self.without_log += 1

    def _advance(self, cursor: Position) -> None:
        if self._resuming:
            return
        known = self.position
        if known is not None and known.epoch == cursor.epoch and known.offset > cursor.offset:
            self.faults.append(f"{self.name}: the cursor went back from {known} to {cursor}")
        for subscription in self.subscriptions.values():
            if subscription.segments and subscription.segments[-1].start.epoch != cursor.epoch:
                self.faults.append(f"{self.name}: {cursor} without a reset, after {known}")
        self.position = cursor

    def _begin(self, topic: str, start: Position) -> None:
        self.subscriptions[topic].segments.append(Segment(start, start))
        self._last[topic] = start.offset

    def _reset(self, topic: str, start: Position) -> None:
        self.resets.append(f"{self.name}: {topic} from {self.position} to {start}")
        self._end(self.subscriptions[topic])
        self._begin(topic, start)

    def _end(self, subscription: Subscription) -> None:
        if subscription.segments and self.position is not None:
            segment = subscription.segments[-1]
            if segment.start.epoch == self.position.epoch:
                segment.end = max(segment.start, self.position)


class Writer(Client):
    """Publishes numbered messages, each with a key, and sends again what was in flight when it lost its connection."""

    def __init__(
        self,
        number: int,
        urls: Sequence[str],
        rate: float,
        *,
        padding: int = 0,
        sends_again: bool = True,
    ) -> None:
        """Publish ``rate`` messages a second, each with so many bytes of ``padding``.

        If the server forgets the keys when it ends, it must not get a message twice: ``sends_again`` is ``False``.
        """
        super().__init__(f"publisher-{number}", urls)
        self.outcomes = Publisher(number)
        self.acknowledged_at: dict[int, float] = {}
        """When the acks came, on the monotonic clock."""
        self.sent_again = 0
        self._padding = ["x" * padding] if padding else []
        self._sends_again = sends_again
        self._rate = rate
        self._prefix = uuid.uuid4().hex
        self._next = 0
        self._in_flight: dict[int, None] = {}
        self._publishing = True
        self._is_held = False
        self._room = asyncio.Event()

    def finish(self) -> None:
        """Publish no more."""
        self._publishing = False

    def hold(self) -> None:
        """Publish nothing until ``go_on``."""
        self._is_held = True

    def go_on(self) -> None:
        """Publish again."""
        self._is_held = False
        self._room.set()

    @property
    def is_quiet(self) -> bool:
        """True if it publishes nothing now, and everything has its outcome."""
        return (self._is_held or not self._publishing) and not self._in_flight

    @property
    def acknowledged(self) -> int:
        return len(self.outcomes.acknowledged)

    def _lost(self) -> None:
        if not self._sends_again:
            self.outcomes.unknown.update(self._in_flight)
            self._in_flight.clear()
            self._room.set()

    async def _talk(self, connection: ClientConnection) -> None:
        for number in list(self._in_flight):
            self.sent_again += 1
            await self._send(connection, number)
        publishing = asyncio.create_task(self._publish(connection))
        try:
            async for text in connection:
                self._take(json.loads(text))
        finally:
            publishing.cancel()

    async def _publish(self, connection: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(self._moments.uniform(0.5, 1.5) / self._rate)
                while self._is_held or len(self._in_flight) >= WINDOW:
                    self._room.clear()
                    await self._room.wait()
                if not self._publishing:
                    return
                number = self._next
                self._next += 1
                self._in_flight[number] = None
                await self._send(connection, number)

    async def _send(self, connection: ClientConnection, number: int) -> None:
        message = Message(self.outcomes.number, number)
        request = {
            "type": "publish",
            "topic": message.topic,
            "message": [*message, *self._padding],
            "key": f"{self._prefix}-{number}",
            "id": number,
        }
        await connection.send(json.dumps(request))

    def _take(self, frame: Frame) -> None:
        number = frame.get("id")
        if number is None:
            if frame["type"] not in ("error", "reset"):
                self.faults.append(f"{self.name}: {frame}")
            return
        if number not in self._in_flight:
            self.faults.append(f"{self.name}: settled twice: {frame}")
            return
        del self._in_flight[number]
        self._room.set()
        if frame["type"] == "ack":
            if "offset" not in frame:
                self.faults.append(f"{self.name}: no offset in {frame}")
                return
            self.outcomes.acknowledged[number] = frame["offset"]
            self.acknowledged_at[number] = time.monotonic()
        elif "not known" in frame["reason"]:
            self.outcomes.unknown.add(number)
        else:
            self.outcomes.refused.add(number)
            if frame["code"] != "unavailable":
                self.faults.append(f"{self.name}: {frame}")
