"""Publishers and subscribers that go on whatever happens to the server, and what is checked afterwards.

``make test`` runs a short form of the tests. ``TESTS=release`` runs the numbers of a release: fifty killed processes, a
Redis that stands still for eight seconds, and the rest several times. That takes six minutes.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.chaos.client import WINDOW, Subscriber, Writer
from tests.chaos.record import Position, Record
from tests.form import RELEASE
from tests.processes import Server, wait_until_async

TIMES = 3 if RELEASE else 1
"""Number of times that each fault happens."""

RATE = 50.0
"""Publishes of each publisher a second."""
PUBLISHERS = 6
TOPICS = [
    ["traffic"],
    ["traffic.p0", "traffic.p1", "traffic.p2.1"],
    ["traffic", "traffic.p3"],
    ["traffic.p4.0", "traffic.p4", "traffic"],
    ["traffic.p5.2"],
]
SUBSCRIBERS_EACH = 4 if RELEASE else 2
CATCH_UP = 60.0


class Traffic:
    """Publishers and subscribers that never stop, and the record of what they did."""

    def __init__(self, urls: list[str]) -> None:
        self.writers = [Writer(number, urls, RATE) for number in range(PUBLISHERS)]
        self.subscribers = [
            Subscriber(f"subscriber-{index}-{number}", urls, topics)
            for index, topics in enumerate(TOPICS)
            for number in range(SUBSCRIBERS_EACH)
        ]

    @property
    def record(self) -> Record:
        return Record(
            [writer.outcomes for writer in self.writers],
            [one for client in self.subscribers for one in client.subscriptions.values()],
        )

    @property
    def resets(self) -> list[str]:
        """The resets so far, a line each."""
        return [line for subscriber in self.subscribers for line in subscriber.resets]

    async def flows(self) -> None:
        """Wait until every publisher has an ack of a publish that it has made since, and all subscribers have it."""
        before = [writer.acknowledged for writer in self.writers]
        await wait_until_async(
            lambda: all(
                writer.acknowledged > count + 2 * WINDOW
                for writer, count in zip(self.writers, before, strict=True)
            ),
            CATCH_UP,
            "every publisher gets acks",
        )
        await self._all_have_acknowledged()

    async def _all_have_acknowledged(self) -> None:
        offset = max(next(reversed(one.outcomes.acknowledged.values())) for one in self.writers)

        def caught_up() -> bool:
            first = self.subscribers[0].position
            return first is not None and all(
                one.has(Position(first.epoch, offset)) for one in self.subscribers
            )

        await wait_until_async(caught_up, CATCH_UP, "all subscribers have what was acknowledged")

    async def settle(self) -> None:
        """Publish no more, and wait until all is settled and handed over."""
        for writer in self.writers:
            writer.finish()
        await wait_until_async(
            lambda: all(writer.is_quiet for writer in self.writers), CATCH_UP, "all is settled"
        )
        await self._all_have_acknowledged()


@asynccontextmanager
async def traffic(servers: Sequence[Server]) -> AsyncIterator[Traffic]:
    """Run the traffic, and check its record at the end."""
    flowing = Traffic([server.url for server in servers])
    clients = [*flowing.subscribers, *flowing.writers]
    began = time.monotonic()
    for subscriber in flowing.subscribers:
        subscriber.start()
    try:
        await wait_until_async(
            lambda: all(subscriber.is_ready for subscriber in flowing.subscribers),
            CATCH_UP,
            "all are subscribed",
        )
        for writer in flowing.writers:
            writer.start()
        await flowing.flows()
        yield flowing
        await flowing.settle()
    finally:
        await asyncio.gather(*(client.stop() for client in clients))
    for subscriber in flowing.subscribers:
        subscriber.finish()
    record = flowing.record
    figures = record.figures() | {
        "seconds": round(time.monotonic() - began),
        "reconnects": sum(client.connections - 1 for client in clients),
        "sent again": sum(writer.sent_again for writer in flowing.writers),
        "repeated": sum(subscriber.repeated for subscriber in flowing.subscribers),
        "without a log": sum(subscriber.without_log for subscriber in flowing.subscribers),
        "reset frames": sum(subscriber.reset_frames for subscriber in flowing.subscribers),
    }
    print(", ".join(f"{name} {value}" for name, value in figures.items()))
    faults = [*(fault for client in clients for fault in client.faults), *record.faults()]
    assert not faults, "\n".join([f"{len(faults)} faults; {figures}", *faults[:20]])
    for server in servers:
        assert "Traceback" not in server.log, server.name
