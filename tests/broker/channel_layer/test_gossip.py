"""News of senders outside the server: no process misses a message unnoticed."""

import pytest

from dwsps_channels.broker.channel_layer.batch import Batch
from dwsps_channels.broker.channel_layer.broker import ChannelLayerBroker
from dwsps_channels.broker.channel_layer.gap_detector import GapDetector
from dwsps_channels.broker.channel_layer.gossip import (
    ARRIVAL_TIMEOUT,
    MAX_TOLD,
    OUTSIDE,
    TELL_FOR,
    Gossip,
)
from tests.broker.channel_layer.layers import Layer
from tests.broker.contract import Member, publication
from tests.processes import wait_until_async

CRON = OUTSIDE + "cron"


def batch(first: int, count: int = 1, sender: str = CRON) -> Batch:
    return Batch(sender, first, [publication(first + index) for index in range(count)])


class Process:
    """One process of a server, as far as this goes. It has been there for long."""

    def __init__(self, since: float = -1000.0) -> None:
        self.detector = GapDetector()
        self.gossip = Gossip(self.detector, since)

    def receives(self, batch: Batch, now: float) -> int:
        """The number of new messages."""
        self.gossip.hear(batch, now)
        return len(self.detector.accept(batch, now))

    def tells(self, other: "Process", now: float) -> None:
        other.gossip.listen(self.gossip.tell(now), now)

    def missed(self, now: float) -> int:
        self.gossip.check(now)
        return self.detector.missed


@pytest.fixture
def one() -> Process:
    return Process()


@pytest.fixture
def other() -> Process:
    return Process()


def test_the_only_message_of_a_sender_is_missed(
    one: Process, other: Process, caplog: pytest.LogCaptureFixture
) -> None:
    one.receives(batch(0), 0.0)
    one.tells(other, 1.0)
    assert other.missed(1.0) == 0  # it may still come
    for now in (2.0, 3.0, 4.0, 5.0):
        one.tells(other, now)
    assert other.missed(1.0 + ARRIVAL_TIMEOUT) == 1
    one.tells(other, 6.0)
    assert other.missed(6.0 + ARRIVAL_TIMEOUT) == 1
    [record] = caplog.records
    assert record.getMessage() == (
        f"missed 1 messages of process {CRON}, which other processes have; 1 missed since the start"
    )


def test_so_is_the_last_one(one: Process, other: Process) -> None:
    one.receives(batch(0, 3), 0.0)
    other.receives(batch(0, 1), 0.0)
    one.tells(other, 1.0)
    assert other.missed(1.0 + ARRIVAL_TIMEOUT) == 2


def test_what_comes_later_than_it_is_told_is_not(one: Process, other: Process) -> None:
    one.receives(batch(0, 2), 0.0)
    one.tells(other, 0.5)
    assert other.receives(batch(0, 2), 0.6) == 2
    assert other.missed(0.5 + ARRIVAL_TIMEOUT) == 0


def test_nor_is_anything_counted_twice(one: Process, other: Process) -> None:
    one.receives(batch(0, 1), 0.0)
    one.tells(other, 0.5)
    one.receives(batch(1, 1), 1.0)
    assert other.receives(batch(1, 1), 1.0) == 1
    assert other.detector.missed == 1  # by its number
    assert other.missed(0.5 + ARRIVAL_TIMEOUT) == 1


def test_what_was_gone_before_a_process_came_is_not_missed(one: Process) -> None:
    one.receives(batch(0), 0.0)
    late = Process(since=1.0)
    one.tells(late, 2.0)
    assert late.missed(2.0 + ARRIVAL_TIMEOUT) == 0
    late.receives(batch(1, 1), 3.0)
    one.receives(batch(1, 2), 3.0)
    one.tells(late, 3.0)
    assert late.missed(3.0 + ARRIVAL_TIMEOUT) == 1


def test_senders_with_heartbeats_of_their_own_are_not_told_of(one: Process) -> None:
    one.receives(batch(0, sender="process"), 0.0)
    assert one.gossip.tell(0.0) == {}


def test_a_sender_is_told_of_for_a_while(one: Process) -> None:
    one.receives(batch(0, 2), 0.0)
    one.receives(batch(2, 1), 1.0)
    assert one.gossip.tell(TELL_FOR) == {CRON: (0, 3)}
    assert one.gossip.tell(TELL_FOR + 1.0) == {}
    one.receives(batch(3, 1), TELL_FOR + 2.0)
    assert one.gossip.tell(TELL_FOR + 2.0) == {CRON: (3, 4)}


def test_a_bounded_number_of_senders_is_told_of_those_heard_last(one: Process) -> None:
    for number in range(2 * MAX_TOLD):
        one.receives(batch(0, sender=f"{OUTSIDE}{number}"), 0.0)
    told = one.gossip.tell(0.0)
    assert len(told) == MAX_TOLD
    assert f"{OUTSIDE}{2 * MAX_TOLD - 1}" in told


def test_it_crosses_with_a_heartbeat() -> None:
    sent = Batch("process", 7, [], heard={CRON: (0, 1)})
    assert Batch.from_message(sent.message()) == sent
    assert "heard" not in Batch("process", 7, []).message()


async def test_a_broker_counts_what_it_alone_did_not_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwsps_channels.broker.channel_layer.gossip.ARRIVAL_TIMEOUT", 0.0)
    layer = Layer()
    brokers = [
        ChannelLayerBroker(lambda: layer, process_id=name, heartbeat=0.05)
        for name in ("one", "two")
    ]
    members = [await Member(broker).start() for broker in brokers]
    for broker in brokers:
        broker._gossip._since -= TELL_FOR
    # The message of a cron job, on its way to the second process alone.
    channel = brokers[1]._channel
    assert channel is not None
    await layer.send(channel, batch(0).message())
    await members[1].receives(1)
    await wait_until_async(lambda: brokers[0].stats().missed == 1)
    assert (brokers[0].stats().gaps, brokers[1].stats().missed) == (1, 0)
    for broker in brokers:
        await broker.stop()
