"""Publishers at one server and subscribers at its peers, and the verdict at the end.

``make test`` runs a short form of the trials. ``TESTS=release`` runs all brokers and the numbers of a release. That takes more than
an hour, and some trials take longer than pytest lets a test: `-o faulthandler_timeout=900`. ``DURABILITY_FIGURES`` names a file
that gets a line a trial.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from tests.chaos.client import Subscriber, Writer
from tests.chaos.record import ROOT, Message
from tests.durability.deployment import Deployment
from tests.durability.verdict import Verdict, judge
from tests.form import RELEASE
from tests.processes import Server, wait_until_async

RATE = 50.0 if RELEASE else 20.0
"""Publishes of each publisher a second."""

CATCH_UP = 60.0
QUIET = 15.0
"""Seconds without a delivery after which what is missing is lost: longer than a lease, a start and a backoff together."""


def times(short: int, release: int) -> int:
    """Return how often something happens in a trial."""
    return release if RELEASE else short


def brokers(*short: str, release: Sequence[str] = ()) -> list[str]:
    """Return the brokers of a trial: those of the short form, and those that a release has beside them."""
    return [*short, *release] if RELEASE else list(short)


class Traffic:
    """Publishers that go on, a subscriber that never leaves at each peer, and one that comes and goes."""

    def __init__(
        self,
        publish_at: Sequence[str],
        subscribe_at: str,
        others: Mapping[str, str],
        *,
        publishers: int,
        rate: float,
        padding: int,
        sends_again: bool,
    ) -> None:
        self.writers = [
            Writer(number, publish_at, rate, padding=padding, sends_again=sends_again)
            for number in range(publishers)
        ]
        self.stays = Subscriber("stays", [subscribe_at], [ROOT])
        self.leaves = Subscriber("leaves", [subscribe_at], [ROOT])
        self.subscribers = [
            self.stays,
            self.leaves,
            *(Subscriber(name, [url], [ROOT]) for name, url in others.items()),
        ]
        self.expected_losses: set[Message] = set()
        """Messages that are known to be lost."""

    @property
    def acknowledged(self) -> int:
        return sum(writer.acknowledged for writer in self.writers)

    def has_acknowledged(self, count: int) -> bool:
        """Return whether so many messages were acknowledged since the start."""
        return self.acknowledged >= count

    def received(self, subscriber: Subscriber) -> list[Message]:
        """Return the messages that came to one of the subscribers, in the order in which they did."""
        [subscription] = subscriber.subscriptions.values()
        return [message for segment in subscription.segments for _, message in segment.received]

    async def flows(self) -> None:
        """Wait until each publisher gets acks, and the peer has what was acknowledged until then."""
        before = [writer.acknowledged for writer in self.writers]
        await wait_until_async(
            lambda: all(
                writer.acknowledged > count + 5
                for writer, count in zip(self.writers, before, strict=True)
            ),
            CATCH_UP,
            "every publisher gets acks",
        )
        await self.arrived()

    async def hold(self) -> None:
        """Publish nothing until ``go_on``, and wait until all that was published has its outcome."""
        for writer in self.writers:
            writer.hold()
        await wait_until_async(
            lambda: all(writer.is_quiet for writer in self.writers), CATCH_UP, "all is settled"
        )

    def go_on(self) -> None:
        """Publish again."""
        for writer in self.writers:
            writer.go_on()

    async def arrived(self) -> None:
        """Wait until the peer has what is the newest message of each publisher now."""
        newest = self._newest()
        await wait_until_async(
            lambda: newest <= set(self.received(self.stays)[-20_000:]),
            CATCH_UP,
            "the peer has what is acknowledged now",
        )

    def _newest(self) -> set[Message]:
        return {
            Message(writer.outcomes.number, max(writer.outcomes.acknowledged))
            for writer in self.writers
        }

    async def come_and_go(self, url: str) -> None:
        """Have one of the subscribers lose its connection again and again, and resume."""
        while True:
            await asyncio.sleep(1.0)
            self.leaves.move_to(url)

    async def settle(self, deployment: Deployment) -> None:
        """Publish no more; wait until all is settled, and all has come or nothing comes any more."""
        for writer in self.writers:
            writer.finish()
        await wait_until_async(
            lambda: all(writer.is_quiet for writer in self.writers), CATCH_UP, "all is settled"
        )
        expected = {
            Message(writer.outcomes.number, number)
            for writer in self.writers
            for number in writer.outcomes.acknowledged
        } - self.expected_losses
        if not deployment.keeps_log:
            expected = {one for one in expected if not self._ended_with(one, deployment)}
        for subscriber in self.subscribers:
            await self._has_all(subscriber, expected)

    async def _has_all(self, subscriber: Subscriber, expected: set[Message]) -> None:
        count, since = -1, time.monotonic()
        while expected - set(self.received(subscriber)):
            if count != (now_has := len(self.received(subscriber))):
                count, since = now_has, time.monotonic()
            elif time.monotonic() > since + QUIET:
                return  # the verdict tells what is missing
            await asyncio.sleep(0.2)

    def faults(self, deployment: Deployment) -> list[str]:
        """Return what is wrong, a line each kind."""
        clients = [*self.writers, *self.subscribers]
        found = [fault for client in clients for fault in client.faults]
        for subscriber in self.subscribers:
            verdict = self._judge(subscriber)
            lost = [one for one in verdict.lost if one not in self.expected_losses]
            if not deployment.keeps_log:
                lost = [one for one in lost if not self._ended_with(one, deployment)]
            verdict = replace(verdict, lost=lost)
            found += [*verdict.faults(subscriber.name), *subscriber.resets]
        return found

    def lost(self) -> set[Message]:
        """Return what was acknowledged and is followed by another message of its publisher at the peer, without having come."""
        newest: dict[int, int] = {}
        for publisher, number in self.received(self.stays):
            newest[publisher] = max(number, newest.get(publisher, -1))
        return {
            one
            for one in self._judge(self.stays).lost
            if one.number < newest.get(one.publisher, -1)
        }

    def _judge(self, subscriber: Subscriber) -> Verdict:
        return judge([writer.outcomes for writer in self.writers], self.received(subscriber))

    def _ended_with(self, message: Message, deployment: Deployment) -> bool:
        """Return whether the message was acknowledged so late that the worker need not have had it from a process that ended."""
        at = self.writers[message.publisher].acknowledged_at[message.number]
        return any(began <= at <= ended for began, ended in deployment.unread)

    def figures(self, deployment: Deployment) -> dict[str, object]:
        """Return the size of the trial and what became of the messages, at the subscriber that stays."""
        verdict = self._judge(self.stays)
        outcomes = [writer.outcomes for writer in self.writers]
        return {
            "broker": deployment.broker,
            "kills": deployment.kills,
            "acknowledged": self.acknowledged,
            "refused": sum(len(one.refused) for one in outcomes),
            "unknown": sum(len(one.unknown) for one in outcomes),
            "lost": len(verdict.lost),
            "doubled": len(verdict.doubled),
            "out of order": len(verdict.disordered),
            "refused and received": len(verdict.refused),
            "sent again": sum(writer.sent_again for writer in self.writers),
            "resumes": self.leaves.connections - 1,
        }


def _report(lines: list[str]) -> None:
    print(*lines, sep="\n")
    if path := os.environ.get("DURABILITY_FIGURES"):
        name = os.environ["PYTEST_CURRENT_TEST"].partition("::")[2].partition(" ")[0]
        with open(path, "a") as file:
            file.writelines(f"{name}: {line}\n" for line in lines)


@asynccontextmanager
async def traffic(
    deployment: Deployment,
    *,
    publish_at: Sequence[Server] = (),
    publishers: int = 4,
    rate: float = RATE,
    padding: int = 0,
    south_stays: bool = True,
) -> AsyncIterator[Traffic]:
    """Run the traffic of a deployment that was started, and check at the end what became of each message.

    Args:
        publish_at: the processes at which publishers connect; by default all of north's.
        publishers: their number.
        rate: publishes of each a second.
        padding: bytes of each message.
        south_stays: whether a subscriber there can keep its connection.
    """
    south = deployment.south.server
    flowing = Traffic(
        [server.url for server in publish_at or deployment.servers],
        south.url,
        {peer.name: peer.url for peer in deployment.others},
        publishers=publishers,
        rate=rate,
        padding=padding,
        sends_again=deployment.keeps_log,
    )
    subscribers = flowing.subscribers
    clients = [*subscribers, *flowing.writers]
    began = time.monotonic()
    for subscriber in subscribers:
        subscriber.start()
    leaving = asyncio.create_task(flowing.come_and_go(south.url))
    try:
        await wait_until_async(
            lambda: all(subscriber.is_ready for subscriber in subscribers), CATCH_UP, "subscribed"
        )
        for writer in flowing.writers:
            writer.start()
        await flowing.flows()
        yield flowing
        await flowing.settle(deployment)
    finally:
        leaving.cancel()
        await asyncio.gather(*(client.stop() for client in clients))
    figures = flowing.figures(deployment) | {"seconds": round(time.monotonic() - began)}
    line = ", ".join(f"{name} {value}" for name, value in figures.items())
    faults = flowing.faults(deployment)
    _report([line, *faults])
    assert not faults, "\n".join([line, *faults[:20]])
    assert flowing.stays.connections == 1 or not south_stays, "it has lost its connection"
    deployment.check()
