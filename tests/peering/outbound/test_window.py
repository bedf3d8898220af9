"""The window: against a naive model, and where its words matter."""

from collections import Counter

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

from dwsps_channels.core.page import Page, Position
from dwsps_channels.peering.outbound import window as module
from dwsps_channels.peering.outbound.message import ForwardedMessage
from dwsps_channels.peering.outbound.window import Window

MESSAGES, BYTES = 3, 40
PAGE, PAGE_SIZE = 4, 60


def outgoing(
    offset: int, name: int | None = None, size: int = 10, epoch: str = "log"
) -> ForwardedMessage:
    return ForwardedMessage("a", name or offset, epoch, offset, float(offset), "news", b"x" * size)


def past(offset: int, *, end: int | None = None, missed: int = 0, epoch: str = "log") -> Page:
    """The page that ends at ``offset``, past its entries."""
    return Page((), f"{epoch}:{offset}", float(offset), offset if end is None else end, missed)


def filled(*offsets: int, size: int = 10, end: int | None = None) -> Window:
    window = Window(Position("log:0"))
    for offset in offsets:
        window.put(outgoing(offset, size=size))
    window.advance(past(offsets[-1] if offsets else 0, end=end))
    return window


def taken(window: Window) -> list[int]:
    """The sequences of all that it gives now."""
    found = []
    while (message := window.take()) is not None:
        found.append(message.sequence)
    return found


def offset_of(position: Position) -> int:
    return int(position.cursor.rpartition(":")[2])


class Model(RuleBasedStateMachine):
    """Plain lists: what waits, what is in flight, what became of the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window(Position("log:0"))
        self.end = 0
        self.read_to = 0
        self.waiting: list[ForwardedMessage] = []
        self.sent: list[ForwardedMessage] = []
        self.sent_before: set[int] = set()
        self.names: list[int] = []
        self.settled: set[int] = set()
        """The offsets that need not be sent again."""
        self.counts: Counter[str] = Counter()
        self.delivered: list[int] = []

    @rule(messages=st.integers(0, 5))
    def grow(self, messages: int) -> None:
        self.end += messages

    @rule(
        wanted=st.lists(st.booleans(), max_size=PAGE),
        size=st.integers(1, 30),
        repeats=st.booleans(),
        missed=st.sampled_from([0, 0, 0, 2]),
    )
    def read(self, wanted: list[bool], size: int, repeats: bool, missed: int) -> None:
        """Take a page in. Some of it is not for the peer, and some was in the log before."""
        if not self.window.room.is_set() or self.read_to + missed > self.end:
            return
        self.settled |= set(range(self.read_to + 1, self.read_to + missed + 1))
        first = self.read_to + missed + 1
        offsets = range(first, min(first + len(wanted), self.end + 1))
        for offset, is_wanted in zip(offsets, wanted, strict=False):
            name = self.names[-1] if repeats and self.names else offset
            if not is_wanted:
                self.settled.add(offset)
                continue
            message = outgoing(offset, name, size)
            self.window.put(message)
            if name in self.names:
                self.settled.add(offset)
            else:
                self.names.append(name)
                self.waiting.append(message)
        self.read_to = offsets[-1] if offsets else first - 1
        self.window.advance(past(self.read_to, end=self.end, missed=missed))
        self.counts["missed"] += missed
        self.counts["dropped"] += missed

    @rule()
    def take(self) -> None:
        message = self.window.take()
        in_flight = sum(each.size for each in self.sent)
        if len(self.sent) == MESSAGES or in_flight >= BYTES or not self.waiting:
            assert message is None
            return
        expected = self.waiting.pop(0)
        assert message is expected
        again = expected.sequence in self.sent_before
        self.counts["resent" if again else "forwarded"] += 1
        self.sent_before.add(expected.sequence)
        self.sent.append(expected)

    @precondition(lambda self: self.sent)
    @rule(refused=st.booleans())
    def reply(self, refused: bool) -> None:
        done = self.sent.pop(0)
        assert self.window.awaited is done
        self.window.acknowledge(refused=refused)
        self.settled.add(done.offset)
        self.counts["dropped" if refused else "acked"] += 1
        if not refused:
            self.delivered.append(done.sequence)

    @rule()
    def lose_the_connection(self) -> None:
        self.window.rewind()
        self.waiting = self.sent + self.waiting
        self.sent = []

    @rule()
    def send_too_much(self) -> None:
        largest = self.window.drop_largest()
        if not self.sent:
            assert largest is None
            return
        expected = max(self.sent, key=lambda message: message.size)
        assert largest is expected
        self.sent.remove(expected)
        self.settled.add(expected.offset)
        self.counts["dropped"] += 1

    @rule(often=st.integers(0, 9))
    def clear(self, often: int) -> None:
        if often == 0:
            self.window.clear()
            self.settled |= {each.offset for each in self.sent + self.waiting}
            self.waiting, self.sent = [], []

    @invariant()
    def it_counts_and_keeps_what_the_model_does(self) -> None:
        window = self.window
        assert (window.waiting, window.in_flight) == (len(self.waiting), len(self.sent))
        assert window.awaited is (self.sent[0] if self.sent else None)
        kept = self.sent + self.waiting
        assert window.oldest_at == (kept[0].at if kept else None)
        names = ("forwarded", "acked", "dropped", "resent", "missed")
        counts = {name: getattr(window, name) for name in names}
        assert counts == {name: self.counts[name] for name in counts}

    @invariant()
    def everything_before_the_position_is_settled(self) -> None:
        reached = offset_of(self.window.position)
        assert set(range(1, reached + 1)) <= self.settled
        if not self.sent and not self.waiting:
            assert reached == self.read_to

    @invariant()
    def it_has_room_while_less_than_a_page_is_read_ahead(self) -> None:
        ahead = sum(each.size for each in self.waiting)
        assert self.window.room.is_set() == (len(self.waiting) <= PAGE and ahead <= PAGE_SIZE)

    @invariant()
    def what_is_delivered_is_in_order(self) -> None:
        assert self.delivered == sorted(set(self.delivered))


def test_it_does_what_the_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_FLIGHT_MESSAGES", MESSAGES)
    monkeypatch.setattr(module, "IN_FLIGHT_BYTES", BYTES)
    monkeypatch.setattr(module, "PAGE_MESSAGES", PAGE)
    monkeypatch.setattr(module, "PAGE_BYTES", PAGE_SIZE)
    run_state_machine_as_test(
        Model, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )


def test_nothing_is_lost_however_often_the_connection_breaks() -> None:
    window = Window(Position("log:0"))
    delivered = []
    for offset in range(1, 51):
        window.put(outgoing(offset))
        window.advance(past(offset))
        if offset % 7 == 0:
            assert taken(window)
            delivered.append(window.awaited.sequence if window.awaited else None)
            window.acknowledge()
            window.rewind()
    assert [*delivered, *taken(window)] == list(range(1, 51))
    assert (window.forwarded, window.dropped) == (50, 0)


def test_no_more_than_its_bounds_is_in_flight() -> None:
    window = filled(*range(1, 400))
    assert taken(window) == list(range(1, module.IN_FLIGHT_MESSAGES + 1))
    window.acknowledge()
    assert taken(window) == [module.IN_FLIGHT_MESSAGES + 1]
    large = filled(1, 2, 3, 4, 5, size=module.IN_FLIGHT_BYTES // 3)
    assert taken(large) == [1, 2, 3, 4]


def test_one_message_is_in_flight_however_large_it_is() -> None:
    window = filled(1, 2, size=2 * module.IN_FLIGHT_BYTES)
    assert taken(window) == [1]
    window.acknowledge()
    assert taken(window) == [2]


def test_the_position_goes_past_what_is_not_for_the_peer_once_nothing_before_it_is_kept() -> None:
    window = Window(Position("log:7", 7.0))
    window.advance(past(9))
    assert window.position == Position("log:9", 9.0)
    window.put(outgoing(10))
    window.advance(past(12))
    assert window.position == Position("log:9", 9.0)
    assert taken(window) == [10]
    window.acknowledge(refused=True)
    assert window.position == Position("log:12", 12.0)


def test_the_position_is_past_what_is_missing_before_the_first_message() -> None:
    window = filled(1)
    window.clear()
    window.put(outgoing(8))
    window.advance(past(9, missed=6))
    assert window.position == Position("log:7", 1.0)


def test_the_position_of_a_page_that_is_partly_acknowledged_is_the_last_of_those() -> None:
    window = filled(1, 2, 3)
    assert taken(window) == [1, 2, 3]
    window.acknowledge()
    window.acknowledge()
    window.rewind()
    assert window.position == Position("log:2", 2.0)


def test_the_lag_is_what_is_kept_here_and_what_is_unread() -> None:
    window = filled(1, 2, 3, end=50)
    assert (window.lag, window.is_at_end) == (3 + 47, False)
    window.measure(past(4, end=60))
    assert window.lag == 3 + 57
    window.advance(past(60))
    assert (window.lag, window.is_at_end) == (3, True)


def test_a_look_at_another_log_measures_nothing() -> None:
    window = filled(1, 2, 3, end=50)
    window.measure(past(2, epoch="another"))
    assert window.lag == 50


def test_a_message_that_the_next_log_repeats_is_not_sent_again() -> None:
    window = filled(1, 2, 3)
    assert taken(window) == [1, 2, 3]
    window.acknowledge()
    for offset, name in enumerate((1, 2, 3, 4), 1):
        window.put(outgoing(offset, name, epoch="another"))
    window.advance(Page((), "another:4", 4.0, 4, restarted=True))
    assert taken(window) == [4]
    assert window.position == Position("log:1", 1.0)
    for _ in range(3):
        window.acknowledge()
    assert window.position == Position("another:4", 4.0)


def test_names_are_forgotten_at_last() -> None:
    window = filled(*range(1, module.MAX_NAMES + 2))
    window.clear()
    window.put(outgoing(module.MAX_NAMES + 2, name=2))
    assert len(window) == 0
    window.put(outgoing(module.MAX_NAMES + 3, name=1))
    assert len(window) == 1


def test_what_a_log_that_began_again_leaves_unread_is_known() -> None:
    window = filled(1, 2, end=10)
    window.advance(Page((), "another:4", 4.0, 4, restarted=True))
    assert (window.restarted_at, window.left_unread) == (Position("log:2", 2.0), 8)


def test_what_a_log_leaves_unread_of_which_nothing_was_read_is_not_known() -> None:
    window = Window(Position("log:2", 2.0))
    window.advance(Page((), "another:4", 4.0, 4, restarted=True))
    assert (window.restarted_at, window.left_unread) == (Position("log:2", 2.0), None)


@pytest.mark.parametrize("position", [Position(), Position(at=5.0)])
def test_where_nothing_was_read_yet_no_log_begins_again(position: Position) -> None:
    window = Window(position)
    window.advance(Page((), "log:4", 4.0, 4, restarted=True))
    assert window.restarted_at is None


def test_what_is_not_for_the_peer_anyway_is_not_missing() -> None:
    window = filled(1)
    window.advance(past(20, missed=7), counts=False)
    window.advance(Page((), "another:4", 4.0, 4, restarted=True), counts=False)
    assert (window.missed, window.dropped, window.restarted_at) == (0, 0, None)
