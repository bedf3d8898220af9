"""The signals of links: what receivers see, slow ones as well."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dwsps_channels import signals
from dwsps_channels.peering.link_signals import LinkSignals
from dwsps_channels.peering.outbound.link import Link
from dwsps_channels.peering.outbound.link_status import LinkState
from tests.processes import wait_until_async

LENGTH = 4


class Receivers:
    """Receivers of both signals, which run in a thread and can be held up there."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.busy = Event()
        self.go_on = Event()
        self.go_on.set()

    def connected(self, peer: str, **rest: Any) -> None:
        self._receive("connected", peer)

    def disconnected(self, peer: str, **rest: Any) -> None:
        self._receive("disconnected", peer)

    def _receive(self, signal: str, peer: str) -> None:
        self.busy.set()
        assert self.go_on.wait(20)
        self.seen.append((signal, peer))

    def of(self, peer: str) -> list[str]:
        return [signal for signal, name in self.seen if name == peer]


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    both = Receivers()
    signals.peer_connected.connect(both.connected)
    signals.peer_disconnected.connect(both.disconnected)
    yield both
    both.go_on.set()
    signals.peer_connected.disconnect(both.connected)
    signals.peer_disconnected.disconnect(both.disconnected)


@pytest.fixture
async def sent() -> AsyncIterator[LinkSignals]:
    link_signals = LinkSignals(LENGTH)
    sending = asyncio.create_task(link_signals.send())
    yield link_signals
    sending.cancel()
    await asyncio.wait([sending])


def becomes(sent: LinkSignals, state: LinkState, peer: str = "far") -> None:
    link = SimpleNamespace(config=SimpleNamespace(name=peer), state=state)
    sent.put(cast(Link, link))


async def hold_up(sent: LinkSignals, receivers: Receivers) -> None:
    """Have the first signal on its way, and the receivers busy with it."""
    receivers.go_on.clear()
    becomes(sent, LinkState.CONNECTED, "first")
    await wait_until_async(receivers.busy.is_set)


async def test_each_change_is_sent_once_and_in_order(
    sent: LinkSignals, receivers: Receivers
) -> None:
    for state in (
        LinkState.CONNECTING,
        LinkState.CONNECTED,
        LinkState.CONNECTED,
        LinkState.BACKING_OFF,
        LinkState.CONNECTING,
        LinkState.CONNECTED,
    ):
        becomes(sent, state)
    await sent.finish(20)
    assert receivers.of("far") == ["connected", "disconnected", "connected"]
    assert sent.dropped == 0


async def test_slow_receivers_take_no_more_memory_than_the_queue(
    sent: LinkSignals, receivers: Receivers, caplog: pytest.LogCaptureFixture
) -> None:
    await hold_up(sent, receivers)
    with caplog.at_level(logging.WARNING, "dwsps_channels.worker"):
        for _ in range(500):
            becomes(sent, LinkState.CONNECTED)
            becomes(sent, LinkState.BACKING_OFF)
        assert sent._queue.qsize() == LENGTH
        # After the queue is full every other change is dropped: the one back is what receivers know already.
        assert sent.dropped == 500 - LENGTH // 2
        receivers.go_on.set()
        await sent.finish(20)
    assert receivers.of("far") == ["connected", "disconnected"] * (LENGTH // 2)
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        "signal receivers are too slow: signals of peers are dropped while 4 wait",
        f"signal receivers have caught up: {sent.dropped} signals of peers were dropped",
    ]


async def test_once_receivers_have_caught_up_they_know_the_truth_of_each_peer(
    sent: LinkSignals, receivers: Receivers
) -> None:
    await hold_up(sent, receivers)
    peers = [f"p{number}" for number in range(3 * LENGTH)]
    for peer in peers:
        becomes(sent, LinkState.CONNECTED, peer)
    becomes(sent, LinkState.REFUSED, peers[0])
    dropped = sent.dropped
    assert dropped == len(peers) - LENGTH + 1
    receivers.go_on.set()
    await wait_until_async(lambda: len(receivers.seen) == 2 + len(peers), 20)
    assert sent.dropped == dropped
    assert receivers.of(peers[0]) == ["connected", "disconnected"]
    assert all(receivers.of(peer) == ["connected"] for peer in peers[1:])


async def test_the_end_waits_for_receivers_but_not_for_ever(
    sent: LinkSignals, receivers: Receivers, caplog: pytest.LogCaptureFixture
) -> None:
    await hold_up(sent, receivers)
    becomes(sent, LinkState.CONNECTED)
    await sent.finish(0.01)
    assert "2 signals of peers were not sent before the end" in caplog.text


async def test_a_receiver_that_raises_stops_nothing(
    sent: LinkSignals, receivers: Receivers
) -> None:
    def raises(**rest: Any) -> None:
        raise ValueError

    signals.peer_connected.connect(raises)
    try:
        becomes(sent, LinkState.CONNECTED)
        becomes(sent, LinkState.LOOP)
        await sent.finish(20)
    finally:
        signals.peer_connected.disconnect(raises)
    assert receivers.of("far") == ["connected", "disconnected"]
