"""Pages of the log, as the memory of one process has it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from dwsps_channels.core.log import Log, offset_of
from dwsps_channels.core.node import Node
from dwsps_channels.core.own_offsets import OwnOffsets
from dwsps_channels.core.page import OVERLAP, Page, Position
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.retention import Retention
from dwsps_channels.core.ring import Ring
from dwsps_channels.core.tail import Tail
from tests.clock import Clock
from tests.core.recording import STAMP, RecordingBroker

TOPICS = ["news", "kept.a", "passing", "passing.b"]
HISTORY = {"kept": Retention(messages=8, bytes=20_000, seconds=100.0), "passing": None}


class Model:
    """A node, and everything that its log ever had, whether it is kept or not."""

    def __init__(self, *, has_log: bool = True, history: Any = HISTORY) -> None:
        self.clock = Clock()
        tail = Tail(Retention(messages=10, bytes=20_000, seconds=50.0), history, self.clock)
        self.node = Node("here", RecordingBroker(), tail=tail)
        self.has_log = has_log
        self.offset = 0
        self.floor = self.kept_floor = 0
        """Up to it nothing is known of what was published."""
        self.own: dict[int, Publication] = {}
        """By offset; those that the node could never have among them."""
        self.not_loaded: set[int] = set()
        """Offsets that may have been of this server, for all that the node knows."""
        self.log: list[tuple[int, Publication]] = []
        if has_log:
            self.node.begin(Log("epoch-0"))
        self.epochs = 0

    @property
    def epoch(self) -> str:
        return self.node.epoch or "here"

    def publish(
        self, topic: str = "news", size: int = 1, *, of_peer: bool = False, by: str = "ann"
    ) -> int:
        self.offset = offset = self.offset + 1
        made = Publication(
            topic,
            Raw(b"1" * size),
            STAMP,
            "far" if of_peer else "here",
            offset,
            "north" if of_peer else by,
            from_peer_server=of_peer,
        )
        if not of_peer:
            self.own[offset] = made
        self.log.append((offset, made))
        self.node.receive(made, offset if self.has_log else None)
        return offset

    def repeat(self) -> None:
        """Let a peer's message come again, which takes a place in the log and is nothing."""
        of_peers = [each for _, each in self.log if each.from_peer_server]
        if of_peers and self.has_log:
            self.offset += 1
            self.log.append((self.offset, of_peers[-1]))
            self.node.receive(of_peers[-1], self.offset)

    def begin(self, lost: int, kept: int, *, is_other: bool) -> None:
        """Let the process miss ``lost`` messages, and load the last ``kept`` of the log."""
        if is_other:
            self.epochs += 1
            self.own, self.log, self.offset = {}, [], 0
        for _ in range(lost):
            self.offset += 1
            made = Publication("news", Raw(b"1"), STAMP, "there", self.offset, "bob")
            self.own[self.offset] = made
            self.log.append((self.offset, made))
        self.floor = max(0, self.offset - kept)
        self.kept_floor = max(0, self.offset - 2 * kept)
        loaded = [each for each in self.log if self._is_loaded(*each)]
        self.not_loaded = set(range(self.floor + 1, self.offset + 1)) - {each[0] for each in loaded}
        log = Log(
            f"epoch-{self.epochs}",
            self.offset,
            self.floor,
            loaded,
            {"kept": self.kept_floor},
            dict.fromkeys((offset for offset, _ in loaded), 0.0),
        )
        self.node.begin(log)

    def _is_loaded(self, offset: int, publication: Publication) -> bool:
        root = publication.topic.partition(".")[0]
        return root != "passing" and offset > (self.kept_floor if root == "kept" else self.floor)

    def gone(self, after: int, page: Page) -> int:
        """Return how many publications after an offset, up to the end of ``page``, are not in it."""
        until = offset_of(page.cursor, self.epoch)
        assert until is not None
        unknown = max(0, min(until, self.floor) - after)
        known = sum(
            max(after, self.floor) < offset <= until for offset in self.own.keys() | self.not_loaded
        )
        of_peers = sum(
            after < offset <= min(until, self.floor) and each.from_peer_server
            for offset, each in self.log
            if self.is_kept(offset)
        )
        return unknown + known - len(page.entries) - of_peers

    def is_kept(self, offset: int) -> bool:
        rings = (*self.node._tail._rings, self.node._tail._passing)
        return any(entry.offset == offset for ring in rings for entry in ring.entries)


steps = st.one_of(
    st.tuples(
        st.just("publish"),
        st.sampled_from(TOPICS),
        st.sampled_from([1, 1, 1, 3_000, 30_000]),
        st.booleans(),
        st.sampled_from(["ann", "ann", "bob"]),
    ),
    st.tuples(st.just("repeat")),
    st.tuples(st.just("wait"), st.integers(0, 30)),
    st.tuples(st.just("begin"), st.integers(0, 5), st.integers(0, 12), st.booleans()),
    st.tuples(
        st.just("read"), st.integers(0, 1), st.integers(1, 4), st.sampled_from([500, 5_000, 10**6])
    ),
)


@settings(max_examples=300)
@given(st.lists(steps, max_size=60), st.booleans(), st.booleans())
def test_pages_and_what_is_missed_are_all_that_was_published(
    told: list[tuple[Any, ...]], has_log: bool, has_roots: bool
) -> None:
    model = Model(has_log=has_log, history=HISTORY if has_roots else {})
    positions = [Position(), Position()]
    for step, *values in [*told, *[("read", each, 4, 10**6) for each in (0, 1) for _ in range(20)]]:
        if step == "publish":
            topic, size, of_peer, by = values
            model.publish(topic, size, of_peer=of_peer, by=by)
        elif step == "repeat":
            model.repeat()
        elif step == "wait":
            model.clock.now += values[0]
        elif step == "begin":
            if has_log:
                model.begin(values[0], values[1], is_other=values[2])
        else:
            reader, messages, size = values
            positions[reader] = read(model, positions[reader], messages, size)
    if model.offset:
        assert {each.cursor for each in positions} == {f"{model.epoch}:{model.offset}"}


def read(model: Model, position: Position, messages: int, size: int) -> Position:
    """Read a page, and compare it with the log."""
    page = model.node.page(position, messages, size)
    after = offset_of(position.cursor, model.epoch)
    until = offset_of(page.cursor, model.epoch)
    if until is None:  # nothing was published yet
        assert (page.entries, page.cursor, page.at) == ((), position.cursor, position.at)
        return page.position
    offsets = [each.offset for each in page.entries]
    assert [each.publication for each in page.entries] == [model.own[each] for each in offsets]
    assert offsets == sorted(set(offsets))
    assert page.restarted is (after is None)
    assert page.end == model.offset
    if after is not None:
        assert all(after < offset <= until for offset in offsets)
        assert page.missed == model.gone(after, page)
    # Within the bounds, and one in any case.
    assert len(offsets) <= messages
    if len(offsets) > 1:
        assert sum(len(each.publication.message) for each in page.entries) <= size
    if until < model.offset:
        assert offsets
    else:
        assert page.at == model.clock()
    return page.position


def numbers(page: Page) -> list[int]:
    return [each.offset for each in page.entries]


def at(model: Model, offset: int) -> Position:
    return Position(f"{model.epoch}:{offset}", model.clock())


@pytest.fixture
def model() -> Model:
    return Model()


def test_nothing_is_missed_by_a_reader_that_keeps_up(model: Model) -> None:
    position = model.node.page(Position()).position
    for _ in range(100):
        model.publish(size=5_000)
        page = model.node.page(position)
        assert (len(page.entries), page.missed, page.restarted) == (1, 0, False)
        position = page.position


def test_what_was_evicted_is_counted_without_what_was_a_peers(model: Model) -> None:
    for number in range(40):
        model.publish(of_peer=number % 2 == 0)
    page = model.node.page(at(model, 0))
    assert len(page.entries) + page.missed == 20
    assert page.missed > 0


def test_what_the_busiest_publisher_has_lost_is_counted_between_what_others_still_have(
    model: Model,
) -> None:
    kept = [model.publish(by="bob") for _ in range(3)]
    last = [model.publish() for _ in range(40)][-1]
    model.publish(of_peer=True)
    page = model.node.page(at(model, 0))
    assert numbers(page)[:3] == kept
    assert numbers(page)[-1] == last
    assert page.missed == 43 - len(page.entries) > 0


def test_what_is_not_in_a_log_that_is_loaded_is_missed(model: Model) -> None:
    for topic in ("news", "passing", "news", "passing"):
        model.publish(topic)
    model.begin(0, 10, is_other=False)
    page = model.node.page(at(model, 0))
    assert (numbers(page), page.missed, page.cursor) == ([1, 3], 2, "epoch-0:4")


def test_what_a_peer_sent_twice_is_not_missed(model: Model) -> None:
    model.publish(of_peer=True)
    model.repeat()
    model.publish()
    page = model.node.page(at(model, 0))
    assert (numbers(page), page.missed) == ([3], 0)
    model.begin(0, 10, is_other=False)
    page = model.node.page(at(model, 0))
    assert (numbers(page), page.missed) == ([3], 0)


def test_a_root_that_is_kept_for_longer_is_read_from_before_the_floor(model: Model) -> None:
    for of_peer in (True, False, False):
        model.publish("kept.a", of_peer=of_peer)
        model.publish("news")
    model.begin(0, 3, is_other=False)
    page = model.node.page(at(model, 0))
    # Of 1 to 3 a peer's message and one of ours are kept.
    assert (numbers(page), page.missed) == ([3, 4, 5, 6], 1)


def test_below_a_root_that_is_not_kept_it_is_there_for_a_moment(model: Model) -> None:
    position = at(model, 0)
    model.publish("passing.news")
    assert numbers(model.node.page(position)) == [1]
    model.clock.now += 11
    page = model.node.page(position)
    assert (numbers(page), page.missed, page.cursor) == ([], 1, "epoch-0:1")


def test_clients_never_get_what_is_below_a_root_that_is_not_kept(model: Model) -> None:
    model.publish("passing.news")
    assert model.node.replay(("passing.news",), "epoch-0:0").recovered == frozenset()
    assert model.node.replay_last("passing.news", 10).size == 0
    assert model.node.stats().kept == 0


def test_a_cursor_of_another_epoch_begins_a_little_before_its_time(model: Model) -> None:
    for _ in range(5):
        model.publish()
        model.clock.now += 6
    position = Position("another:17", model.clock() - 6)
    page = model.node.page(position)
    assert (numbers(page), page.restarted, page.missed) == ([4, 5], True, 0)
    assert OVERLAP == 10.0


def test_a_clock_that_was_set_back_hides_nothing(model: Model) -> None:
    position = Position("another:17", model.clock())
    for step in (1, 1, -3600, 1):
        model.clock.now += step
        model.publish()
    assert numbers(model.node.page(position)) == [1, 2, 3, 4]


def test_a_position_beyond_what_this_process_has_read_waits_for_it(model: Model) -> None:
    model.publish()
    page = model.node.page(at(model, 3))
    assert (numbers(page), page.cursor, page.end) == ([], "epoch-0:3", 3)
    for _ in range(3):
        model.publish()
    assert numbers(model.node.page(page.position)) == [4]


def test_before_the_log_begins_a_position_stays_as_it_is() -> None:
    node = Node("here", RecordingBroker())
    position = Position("epoch:5", 17.0)
    assert node.page(position) == Page((), "epoch:5", 17.0)


@pytest.mark.parametrize("of_peer", [False, True])
def test_waiting_ends_with_the_next_publication_of_this_server(model: Model, of_peer: bool) -> None:
    calls: list[int] = []
    model.node.wait(lambda: calls.append(1))
    model.publish(of_peer=of_peer)
    model.publish(of_peer=of_peer)
    assert calls == ([] if of_peer else [1])


def test_waiting_ends_when_the_log_begins_again(model: Model) -> None:
    calls: list[int] = []
    model.node.wait(lambda: calls.append(1))
    model.begin(0, 0, is_other=True)
    assert calls == [1]


def test_waiting_can_be_given_up(model: Model) -> None:
    calls: list[int] = []

    def callback() -> None:
        calls.append(1)

    model.node.wait(callback)
    model.node.stop_waiting(callback)
    model.node.stop_waiting(callback)
    model.publish()
    assert calls == []


def test_a_page_near_the_end_does_not_look_at_what_is_kept() -> None:
    looked_at = 0

    class Counting:
        """An entry that counts how often its offset is looked at."""

        def __init__(self, offset: int) -> None:
            self._offset = offset

        @property
        def offset(self) -> int:
            nonlocal looked_at
            looked_at += 1
            return self._offset

    ring = Ring(Retention())
    ring.entries.extend(Counting(number) for number in range(1, 10_001))  # type: ignore[misc]
    assert len(ring.after(9_990, 256)) == 10
    assert looked_at < 20


@given(
    st.lists(st.booleans(), max_size=60),
    st.integers(1, 20),
    st.tuples(st.integers(0, 60), st.integers(0, 60)),
)
def test_offsets_that_are_not_known_any_more_all_count(
    own: list[bool], limit: int, span: tuple[int, int]
) -> None:
    known = OwnOffsets(limit)
    offsets = [offset for offset, is_own in enumerate(own, 1) if is_own]
    for offset in offsets:
        known.extend([offset])
    after, until = sorted(span)
    counted = known.between(after, until)
    assert counted == sum(
        offset <= known.floor or offset in offsets for offset in range(after + 1, until + 1)
    )
    assert sum(offset > known.floor for offset in offsets) >= min(limit, len(offsets))
