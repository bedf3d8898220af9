"""The outbox: against a naive model, and where its words matter."""

import logging
from collections import Counter, deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dwsps_channels.core.fairness import make_room
from dwsps_channels.peering.outbound import outbox as module
from dwsps_channels.peering.outbound.message import ForwardedMessage
from dwsps_channels.peering.outbound.outbox import MAX_ORIGINS, Outbox

MESSAGES = 6
SIZE = 60
WINDOW = 3


def outgoing(
    number: int, origin: str = "a", size: int = 10, publisher: str = ""
) -> ForwardedMessage:
    return ForwardedMessage(origin, number, 0.0, "news", b"x" * size, publisher)


def outbox(messages: int = 100, size: int = 10_000, **cursor: int) -> Outbox:
    return Outbox("far", messages, size, cursor)


def taken(box: Outbox) -> list[int]:
    """The numbers of all that it gives now."""
    found = []
    while (message := box.take()) is not None:
        found.append(message.sequence)
    return found


class Model(RuleBasedStateMachine):
    """Plain lists: what waits, what is on its way, what became of the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.box = Outbox("far", MESSAGES, SIZE, {"old": 5})
        self.waiting: list[ForwardedMessage] = []
        self.sent: list[ForwardedMessage] = []
        self.sent_before: set[tuple[str, int]] = set()
        self.put_up_to = {"old": 5}
        self.done_up_to = {"old": 5}
        self.counts: Counter[str] = Counter()
        self.delivered: list[ForwardedMessage] = []

    @rule(
        origin=st.sampled_from(["a", "b", "old"]),
        step=st.integers(-2, 3),
        size=st.integers(1, 25),
        publisher=st.sampled_from(["", "one", "two"]),
    )
    def put(self, origin: str, step: int, size: int, publisher: str) -> None:
        """Mostly the next number; also one that was put before, and one after a gap."""
        number = max(1, self.put_up_to.get(origin, 0) + step)
        message = outgoing(number, origin, size, publisher)
        self.box.put(message)
        if not self.comes(message):
            return
        self.waiting.append(message)
        for room, by_size in (
            (MESSAGES - len(self.sent), False),
            (SIZE - sum(each.size for each in self.sent), True),
        ):
            left = deque(self.waiting)
            dropped = make_room(left, room, by_size=by_size)
            self.counts["dropped"] += len(dropped)
            self.waiting = list(left)
            for each in dropped:
                self.settle(each.origin)

    @rule(origin=st.sampled_from(["a", "b", "old"]), step=st.integers(-2, 3))
    def skip(self, origin: str, step: int) -> None:
        message = outgoing(max(1, self.put_up_to.get(origin, 0) + step), origin)
        self.box.skip(message)
        if self.comes(message):
            self.settle(origin)

    @rule(origin=st.sampled_from(["a", "b", "old"]), step=st.integers(-2, 3))
    def catch_up(self, origin: str, step: int) -> None:
        reached = self.put_up_to.get(origin)
        number = max(1, (reached or 0) + step)
        self.box.catch_up({origin: number})
        if reached is None:
            self.put_up_to[origin] = number
        elif number > reached:
            self.put_up_to[origin] = number
            self.miss(number - reached)
        self.settle(origin)

    def comes(self, message: ForwardedMessage) -> bool:
        """Return whether it is new; count the missing ones before it."""
        reached = self.put_up_to.get(message.origin)
        if reached is not None:
            if message.sequence <= reached:
                return False
            self.miss(message.sequence - reached - 1)
        self.put_up_to[message.origin] = message.sequence
        return True

    def miss(self, messages: int) -> None:
        self.counts["missed"] += messages
        self.counts["dropped"] += messages

    def settle(self, origin: str) -> None:
        """All that came of an origin is done with if nothing of it is kept."""
        if origin not in {each.origin for each in self.waiting + self.sent}:
            self.done_up_to[origin] = self.put_up_to[origin]

    @rule()
    def take(self) -> None:
        message = self.box.take()
        on_its_way = sum(each.size for each in self.sent)
        if len(self.sent) == WINDOW or on_its_way >= SIZE // 4 or not self.waiting:
            assert message is None
            return
        expected = self.waiting.pop(0)
        assert message == expected
        name = (expected.origin, expected.sequence)
        self.counts["resent" if name in self.sent_before else "forwarded"] += 1
        self.sent_before.add(name)
        self.sent.append(expected)

    @precondition(lambda self: self.sent)
    @rule(refused=st.booleans())
    def answered(self, refused: bool) -> None:
        done = self.sent.pop(0)
        assert self.box.awaited == done
        self.box.acknowledge(refused=refused)
        self.done_up_to[done.origin] = done.sequence
        self.settle(done.origin)
        self.counts["dropped" if refused else "acked"] += 1
        if not refused:
            self.delivered.append(done)

    @rule()
    def lose_the_connection(self) -> None:
        self.box.rewind()
        self.waiting = self.sent + self.waiting
        self.sent = []

    @rule()
    def send_too_much(self) -> None:
        largest = self.box.drop_largest()
        if not self.sent:
            assert largest is None
            return
        expected = max(self.sent, key=lambda message: len(message.frame))
        assert largest == expected
        self.sent.remove(expected)
        self.counts["dropped"] += 1
        self.settle(expected.origin)

    @rule(often=st.integers(0, 9))
    def clear(self, often: int) -> None:
        if often == 0:
            self.box.clear()
            self.waiting, self.sent = [], []
            for origin in self.put_up_to:
                self.settle(origin)

    @invariant()
    def it_counts_and_keeps_what_the_model_does(self) -> None:
        box = self.box
        assert len(box) == len(self.waiting) + len(self.sent)
        assert box.awaited == (self.sent[0] if self.sent else None)
        assert box.cursor == self.done_up_to
        assert {origin: box.reached(origin) for origin in box.origins} == self.put_up_to
        names = ("forwarded", "acked", "dropped", "resent", "missed")
        counts = {name: getattr(box, name) for name in names}
        assert counts == {name: self.counts[name] for name in counts}

    @invariant()
    def it_stays_within_its_caps(self) -> None:
        # What is on its way stays: it was within them when it was sent.
        kept = sum(len(each.frame) for each in self.waiting + self.sent)
        assert len(self.box) <= MESSAGES
        assert kept <= SIZE
        assert self.box._kept == kept

    @invariant()
    def what_is_delivered_is_in_order_of_each_origin(self) -> None:
        for origin in ("a", "b", "old"):
            numbers = [each.sequence for each in self.delivered if each.origin == origin]
            assert numbers == sorted(set(numbers))


def test_it_does_what_the_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW", WINDOW)
    run_state_machine_as_test(
        Model, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )


def test_nothing_is_lost_within_the_caps_however_often_the_connection_breaks() -> None:
    box = outbox()
    delivered = []
    for number in range(1, 51):
        box.put(outgoing(number))
        if number % 7 == 0:
            assert len(taken(box)) > 0
            delivered.append(box.awaited.sequence if box.awaited else None)
            box.acknowledge()
            box.rewind()
    box.rewind()
    rest = taken(box)
    assert [*delivered, *rest] == list(range(1, 51))
    assert (box.forwarded, box.dropped) == (50, 0)


def test_no_more_than_the_window_is_on_its_way() -> None:
    box = outbox(messages=1000, size=100_000)
    for number in range(1, 400):
        box.put(outgoing(number))
    assert taken(box) == list(range(1, module.WINDOW + 1))
    box.acknowledge()
    assert taken(box) == [module.WINDOW + 1]


def test_what_is_on_its_way_is_not_dropped_for_what_waits() -> None:
    box = outbox(messages=3)
    for number in (1, 2):
        box.put(outgoing(number))
    assert taken(box) == [1, 2]
    for number in (3, 4, 5):
        box.put(outgoing(number))
    assert box.dropped == 2
    box.rewind()
    assert taken(box) == [1, 2, 5]


def test_who_publishes_without_end_takes_no_place_of_others() -> None:
    box = outbox(messages=1_000_000, size=100_000)
    box.put(outgoing(1, publisher="honest"))
    for number in range(2, 1000):
        box.put(outgoing(number, size=1000, publisher="flood"))
    box.put(outgoing(1000, publisher="late"))
    # Neither where it waits nor on its way, as that cannot be dropped any more.
    on_its_way = taken(box)
    assert on_its_way[0] == 1
    assert sum(1000 for number in on_its_way[1:]) <= 100_000 // 4
    for number in range(1001, 2000):
        box.put(outgoing(number, size=1000, publisher="flood"))
    box.rewind()
    for number in range(2000, 3000):
        box.put(outgoing(number, size=1000, publisher="flood"))
    delivered = []
    while (message := box.take()) is not None:
        delivered.append(message.sequence)
        box.acknowledge()
    assert {1, 1000} <= set(delivered)
    assert delivered == sorted(delivered)
    assert box.dropped + box.acked == 2999


def test_what_was_acknowledged_in_an_earlier_run_is_not_put_again() -> None:
    box = outbox(a=3)
    for number in range(1, 6):
        box.put(outgoing(number))
    assert taken(box) == [4, 5]
    assert box.cursor == {"a": 3}


def test_the_position_passes_over_what_was_dropped_and_what_was_refused() -> None:
    box = outbox(messages=1)
    for number in (1, 2, 3):
        box.put(outgoing(number))
    assert taken(box) == [3]
    assert box.cursor == {}
    box.acknowledge(refused=True)
    assert box.cursor == {"a": 3}
    assert (box.acked, box.dropped) == (0, 3)


def test_what_never_came_is_counted() -> None:
    box = outbox(a=3)
    for number in (4, 5, 8):
        box.put(outgoing(number))
    box.skip(outgoing(12))
    assert (box.missed, box.dropped) == (5, 5)
    box.catch_up({"a": 20, "new": 7})
    assert (box.missed, box.dropped) == (13, 13)
    assert taken(box) == [4, 5, 8]


def test_of_an_origin_that_is_new_what_came_before_the_first_is_missing() -> None:
    box = outbox(a=3)
    box.begin({"a": 1, "new": 1, "joined": 50})
    box.put(outgoing(5, "new"))
    box.catch_up({"a": 3, "new": 5, "joined": 52, "idle": 10})
    assert box.missed == 4 + 3


def test_of_an_outbox_that_is_new_nothing_is_missing_before_its_first_message() -> None:
    box = outbox()
    box.begin({"a": 1, "idle": 1})
    box.put(outgoing(5, "a"))
    box.catch_up({"a": 5, "idle": 10})
    box.put(outgoing(11, "idle"))
    assert box.missed == 0
    box.begin({"a": 1, "idle": 1, "new": 1})
    box.catch_up({"a": 5, "idle": 11, "new": 2})
    assert box.missed == 2


def test_of_an_origin_that_may_have_been_forgotten_nothing_is_missing() -> None:
    box = outbox(**{f"run-{number}": 1 for number in range(MAX_ORIGINS)})
    box.begin({"forgotten": 1})
    box.put(outgoing(5, "forgotten"))
    box.catch_up({"forgotten": 5, "other": 9})
    assert box.missed == 0


def test_what_is_not_for_the_peer_is_done_with_once_nothing_before_it_is_kept() -> None:
    box = outbox()
    box.put(outgoing(1))
    box.skip(outgoing(2))
    box.skip(outgoing(1, "b"))
    assert box.cursor == {"b": 1}
    assert taken(box) == [1]
    box.acknowledge()
    assert box.cursor == {"b": 1, "a": 2}


def test_a_message_larger_than_the_outbox_is_dropped_and_counted() -> None:
    box = outbox(size=5)
    box.put(outgoing(1, size=6))
    assert (len(box), box.dropped, box.take()) == (0, 1, None)


def test_origins_that_were_not_heard_of_for_longest_are_forgotten() -> None:
    box = outbox(messages=10_000)
    box.put(outgoing(1, "regular"))
    for number in range(2, 2 * MAX_ORIGINS):
        box.put(outgoing(1, f"run-{number}"))
        box.put(outgoing(number, "regular"))
    assert len(box.origins) == MAX_ORIGINS
    assert box.reached("regular") == 2 * MAX_ORIGINS - 1
    assert box.reached("run-2") is None
    while box.take() is not None:
        box.acknowledge()
    assert len(box.cursor) == MAX_ORIGINS


def test_an_overflow_is_logged_once_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    box = outbox(messages=2)
    for outage in range(2):
        for number in range(1, 6):
            box.put(outgoing(number + 5 * outage))
        while box.take() is not None:
            box.acknowledge()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            "peer 'far': its outbox is full at 2 messages; the publishers with the most messages lose their oldest",
        ),
        ("INFO", "peer 'far': its outbox is empty again; dropped so far: 3"),
        (
            "WARNING",
            "peer 'far': its outbox is full at 2 messages; the publishers with the most messages lose their oldest",
        ),
        ("INFO", "peer 'far': its outbox is empty again; dropped so far: 6"),
    ]
