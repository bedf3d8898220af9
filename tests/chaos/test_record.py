"""The record finds what is wrong with a run: a chaos test is worth as much as this."""

from collections.abc import Callable

import pytest

from tests.chaos.record import Message, Position, Publisher, Record, Segment, Subscription

COUNT = 30


def at(offset: int, epoch: str = "e") -> Position:
    return Position(epoch, offset)


def run_of(*topics: str) -> Record:
    """A run without a fault: one publisher, whose message n has the offset n + 1."""
    publisher = Publisher(0, acknowledged={number: number + 1 for number in range(COUNT)})
    subscriptions = [
        Subscription(
            f"client-{index}",
            topic,
            [
                Segment(
                    at(0),
                    at(COUNT),
                    [
                        (at(number + 1), message)
                        for number in range(COUNT)
                        if (message := Message(0, number)).is_below(topic)
                    ],
                )
            ],
        )
        for index, topic in enumerate(topics)
    ]
    return Record([publisher], subscriptions)


def test_a_run_without_a_fault_has_none() -> None:
    record = run_of("traffic", "traffic.p0.1", "traffic.p1")
    assert record.faults() == []
    assert record.figures()["deliveries"] == COUNT + COUNT // 3


def lose_one(record: Record) -> None:
    del record.subscriptions[0].segments[0].received[7]


def lose_the_last(record: Record) -> None:
    record.subscriptions[0].segments[0].received.pop()


def lose_everywhere(record: Record) -> None:
    for subscription in record.subscriptions:
        segment = subscription.segments[0]
        segment.received = [one for one in segment.received if one[1].number != 7]


def repeat(record: Record) -> None:
    received = record.subscriptions[0].segments[0].received
    received.append((at(99), received[7][1]))


def repeat_after_a_reset(record: Record) -> None:
    segments = record.subscriptions[0].segments
    segments.append(Segment(at(COUNT), at(COUNT), [segments[0].received[7]]))


def swap(record: Record) -> None:
    received = record.subscriptions[0].segments[0].received
    received[7], received[8] = received[8], received[7]


def reorder_the_log(record: Record) -> None:
    for subscription in record.subscriptions:
        subscription.segments[0].received[4:6] = [
            (at(5), Message(0, 5)),
            (at(6), Message(0, 4)),
        ]


def split(record: Record) -> None:
    record.subscriptions[0].segments[0].received[7] = (at(8), Message(0, 99))


def deliver_refused(record: Record) -> None:
    record.publishers[0].refused.add(7)
    del record.publishers[0].acknowledged[7]


def acknowledge_wrongly(record: Record) -> None:
    record.publishers[0].acknowledged[7] = 4


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (lose_one, "lost"),
        (lose_the_last, "lost"),
        (lose_everywhere, "lost"),
        (repeat, "double"),
        (repeat_after_a_reset, "double"),
        (swap, "order"),
        (reorder_the_log, "order"),
        (split, "two logs"),
        (deliver_refused, "refused"),
        (acknowledge_wrongly, "ack"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_finds(harm: Callable[[Record], None], found: str) -> None:
    record = run_of("traffic", "traffic.p0")
    harm(record)
    assert found in {fault.partition(":")[0] for fault in record.faults()}


def test_a_reset_accounts_for_what_is_missing() -> None:
    record = run_of("traffic", "traffic")
    segment = record.subscriptions[0].segments[0]
    received = segment.received
    record.subscriptions[0].segments = [
        Segment(at(0), at(7), received[:7]),
        Segment(at(12), at(COUNT), received[12:]),
    ]
    assert record.faults() == []
    assert record.figures()["resets"] == 1
    record.subscriptions[0].segments[0].end = at(8)
    assert any("lost: 1 messages" in fault for fault in record.faults())


def test_the_end_of_an_epoch_may_take_messages_along() -> None:
    record = run_of("traffic")
    received = record.subscriptions[0].segments[0].received
    # Number 7 was acknowledged and never seen; number 8 is the first of the new epoch.
    record.subscriptions[0].segments = [
        Segment(at(0), at(7), received[:7]),
        Segment(
            at(0, "f"),
            at(COUNT - 8, "f"),
            [(at(index + 1, "f"), message) for index, (_, message) in enumerate(received[8:])],
        ),
    ]
    publisher = record.publishers[0]
    publisher.acknowledged = {
        number: number + 1 if number < 8 else number - 7 for number in range(COUNT)
    }
    assert record.faults() == []
    assert record.figures()["epochs"] == 2
