"""A client that resumes is sent exactly what it missed, or it is told that something is missing."""

import gc
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import Raw

from dwsps_channels.broker.memory import MemoryBroker
from dwsps_channels.core import replay
from dwsps_channels.core.log import Log
from dwsps_channels.core.node import Node
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.replay import MAX_PARTS_WITHOUT, Replay, ReplayLimits, _Part
from dwsps_channels.core.retention import Retention
from dwsps_channels.core.ring import ENTRY_BYTES
from dwsps_channels.core.tail import Tail
from dwsps_channels.protocol.frames import Frames
from dwsps_channels.protocol.topics import contexts
from tests.clock import Clock
from tests.core.recording import STAMP, RecordingBroker

Delivery = tuple[int, str, int]
"""Offset, context, and the number that was published."""

HISTORY: dict[str, Retention | None] = {
    "chat": Retention(messages=4, bytes=100_000, seconds=100.0),
    "chat.staff": Retention(messages=12, bytes=100_000, seconds=20.0),
    "news.pointer": None,
}
LIMITS = ReplayLimits(messages=14, bytes=2000)

topics = st.sampled_from(
    [
        "news",
        "news.uk",
        "news.uk.london",
        "news.pointer",
        "news.pointer.x",
        "chat",
        "chat.staff",
        "chat.staff.room",
        "chat.lobby",
        "sport",
    ]
)
publishers = st.sampled_from(["one", "two", "flood"])


def deliveries(found: Replay) -> list[Delivery]:
    decoded = [json.loads(frame.data) for frame in found.frames]
    return [(each["offset"], each["context"], each["message"][0]) for each in decoded]


def is_below(topic: str, context: str) -> bool:
    return context in contexts(topic)


def is_below_any(topic: str, denied: Collection[str]) -> bool:
    return any(is_below(topic, each) for each in denied)


def root_of(topic: str) -> str | None:
    return next((context for context in contexts(topic) if context in HISTORY), None)


@dataclass(frozen=True)
class Published:
    offset: int
    publication: Publication

    def seen_at(self, context: str) -> Delivery:
        return self.offset, context, json.loads(bytes(self.publication.message))[0]


class Resumes(RuleBasedStateMachine):
    """A log that is written down whole, beside a node that keeps a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.tail = Tail(Retention(messages=6, bytes=6000, seconds=20.0), HISTORY, self.clock)
        self.node = Node("here", RecordingBroker(), tail=self.tail, replay_limits=LIMITS)
        self.epochs = 0
        self.numbers = 0
        self.log: list[Published] = []
        # By root; None: the rest. What the broker did not have any more when the node began.
        self.floors: dict[str | None, int] = {}
        self.offset = 0
        # What peers have sent, as far as the node has seen it.
        self.of_peers: list[Publication] = []
        self.begin_another_log()

    @rule()
    def begin_another_log(self) -> None:
        self.epochs += 1
        self.log, self.floors, self.offset = [], dict.fromkeys([None, *HISTORY], 0), 0
        self.node.begin(Log(f"e{self.epochs}"))

    def make(
        self, topic: str, publisher: str, size: int, from_peer: bool, sequence: int | None = None
    ) -> Publication:
        self.numbers += 1
        message = Raw(json.dumps([self.numbers, "x" * size]).encode())
        origin = "far" if from_peer else "here"
        sequence = self.numbers if sequence is None else sequence
        return Publication(topic, message, STAMP, origin, sequence, publisher, from_peer)

    def add(self, publication: Publication, step: int) -> Published:
        self.offset += step
        added = Published(self.offset, publication)
        self.log.append(added)
        return added

    @rule(
        topic=topics,
        publisher=publishers,
        count=st.sampled_from([1, 1, 1, 2, 5, 40]),
        size=st.sampled_from([1, 1, 1, 300, 3000]),
        step=st.integers(1, 3),
        from_peer=st.booleans(),
    )
    def publish(
        self, topic: str, publisher: str, count: int, size: int, step: int, from_peer: bool
    ) -> None:
        for _ in range(count):
            added = self.add(self.make(topic, publisher, size, from_peer), step)
            self.node.receive(added.publication, added.offset)
            if from_peer:
                self.of_peers.append(added.publication)

    @rule(back=st.integers(0, 3))
    def a_peer_sends_again(self, back: int) -> None:
        if back < len(self.of_peers):
            self.offset += 1
            self.node.receive(self.of_peers[-1 - back], self.offset)

    @rule(seconds=st.sampled_from([0.5, 5.0, 21.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(
        missed=st.lists(st.tuples(topics, publishers, st.booleans()), max_size=8),
        kept=st.integers(0, 8),
        roots_kept=st.integers(0, 12),
    )
    def miss_some(
        self, missed: Sequence[tuple[str, str, bool]], kept: int, roots_kept: int
    ) -> None:
        """The broker was away, and has only the newest when it is back."""
        for topic, publisher, from_peer in missed:
            self.add(self.make(topic, publisher, 1, from_peer), 1)
        floor = self.log[-kept - 1].offset if len(self.log) > kept else 0
        root_floor = self.log[-roots_kept - 1].offset if len(self.log) > roots_kept else 0
        self.floors = {
            root: self.offset if root == "news.pointer" else root_floor if root else floor
            for root in [None, *HISTORY]
        }
        held = [
            (each.offset, each.publication)
            for each in self.log
            if each.offset > self.floors[root_of(each.publication.topic)]
        ]
        self.of_peers += [each for _, each in held if each.from_peer_server]
        floors = {"chat": root_floor, "chat.staff": root_floor}
        self.node.begin(Log(f"e{self.epochs}", self.offset, floor, held, floors))

    @rule(
        wanted=st.lists(topics, min_size=1, max_size=4),
        back=st.integers(0, 50),
        denied=st.just(frozenset()) | st.frozensets(topics, max_size=3),
    )
    def resume(self, wanted: list[str], back: int, denied: frozenset[str]) -> None:
        after = max(0, self.offset - back)
        denied_below = {
            topic: below
            for topic in wanted
            if (below := frozenset(each for each in denied if each.startswith(f"{topic}.")))
        }
        found = self.node.replay(wanted, f"e{self.epochs}:{after}", denied_below)
        published = {
            topic: [
                each
                for each in self.log
                if each.offset > after and is_below(each.publication.topic, topic)
            ]
            for topic in wanted
        }
        expected = {
            topic: [
                each.seen_at(topic)
                for each in every
                if not is_below_any(each.publication.topic, denied_below.get(topic, ()))
            ]
            for topic, every in published.items()
        }
        assert found.recovered <= set(wanted)
        both = [each for topic in found.recovered for each in expected[topic]]
        assert deliveries(found) == sorted(both, key=lambda each: (each[0], -len(each[1])))
        assert found.size == sum(len(frame.data) for frame in found.frames) <= LIMITS.bytes
        assert len(found.frames) <= LIMITS.messages
        for topic in set(wanted) - found.recovered:
            all_below = [each.seen_at(topic) for each in published[topic]]
            assert self.is_missing(topic, after, all_below) or not self.fits(wanted, expected)

    def is_missing(self, topic: str, after: int, expected: Sequence[Delivery]) -> bool:
        kept = {entry.offset for entry in self.tail.last(topic, 10_000)}
        if any(offset not in kept for offset, _, _ in expected):
            return True
        roots = {root_of(topic), *(root for root in HISTORY if is_below(root, topic))}
        return any(after < self.floors[root] for root in roots)

    def fits(self, wanted: Sequence[str], expected: dict[str, list[Delivery]]) -> bool:
        every = [each for topic in dict.fromkeys(wanted) for each in expected[topic]]
        sizes = {
            each.offset: len(each.publication.frame("news.pointer.xxx", 1000).data)
            for each in self.log
        }
        return (
            len(every) <= LIMITS.messages
            and sum(sizes[offset] for offset, _, _ in every) <= LIMITS.bytes
        )

    @rule(topic=topics, count=st.integers(0, 20), denied=st.frozensets(topics, max_size=2))
    def fetch_the_last_of_what_is_not_denied(
        self, topic: str, count: int, denied: frozenset[str]
    ) -> None:
        denied -= {topic}
        found = deliveries(self.node.replay_last(topic, count, denied))
        kept = {entry.offset for entry in self.tail.last(topic, 10_000)}
        expected = [
            each.seen_at(topic)
            for each in self.log
            if each.offset in kept and not is_below_any(each.publication.topic, denied)
        ]
        assert found == expected[len(expected) - len(found) :]
        assert len(found) <= min(count, LIMITS.messages)
        if len(found) < min(count, len(expected), LIMITS.messages):
            next_one = {each.offset: each for each in self.log}[expected[-1 - len(found)][0]]
            frames = [*self.node.replay_last(topic, count, denied).frames]
            frames.append(next_one.publication.frame(topic, next_one.offset))
            assert sum(len(frame.data) for frame in frames) > LIMITS.bytes

    @rule(topic=topics, count=st.integers(0, 20))
    def fetch_the_last(self, topic: str, count: int) -> None:
        found = deliveries(self.node.replay_last(topic, count))
        kept = {entry.offset for entry in self.tail.last(topic, 10_000)}
        expected = [
            each.seen_at(topic)
            for each in self.log
            if each.offset in kept and is_below(each.publication.topic, topic)
        ]
        assert len(expected) == len(kept)
        assert found == expected[len(expected) - len(found) :]
        if len(expected) <= LIMITS.messages and sum(len(str(each)) for each in expected) < 10:
            assert len(found) == min(count, len(expected))
        assert len(found) <= min(count, LIMITS.messages)

    @rule(since=st.sampled_from(["", ":", "e:1", "e1", "e1:", "e1:x", "e1:-1", "e1:1.5", "e1:²"]))
    def resume_from_nowhere(self, since: str) -> None:
        assert self.node.replay(["news"], since) == Replay()
        assert self.node.replay(["news"], f"e{self.epochs}:{self.offset + 1}") == Replay()

    @invariant()
    def it_stays_within_its_bounds(self) -> None:
        count = len(self.tail)
        assert count <= 6 + 4 + 12
        assert (
            sum(entry.size for ring in self.tail._rings for entry in ring.entries) <= 6000 + 200_000
        )


TestResumes = Resumes.TestCase
TestResumes.settings = settings(stateful_step_count=40, max_examples=100)


async def a_node(tail: Tail | None = None, limits: ReplayLimits | None = None) -> Node:
    broker = MemoryBroker()
    node = Node("here", broker, tail=tail, replay_limits=limits)
    await broker.start(node)
    return node


def publish(node: Node, topic: str, count: int = 1, publisher: str = "") -> None:
    for number in range(count):
        node.publish(topic, Raw(json.dumps([number]).encode()), STAMP, publisher)


async def test_of_two_contexts_the_deeper_comes_first() -> None:
    node = await a_node()
    publish(node, "news.uk.london")
    publish(node, "news")
    publish(node, "news.uk")
    found = node.replay(["news", "sport", "news.uk"], f"{node.epoch}:0")
    assert [(offset, context) for offset, context, _ in deliveries(found)] == [
        (1, "news.uk"),
        (1, "news"),
        (2, "news"),
        (3, "news.uk"),
        (3, "news"),
    ]
    assert found.recovered == {"news", "sport", "news.uk"}


async def test_a_replay_is_as_the_deliveries_were() -> None:
    node = await a_node()
    publication = Publication(
        "news.uk", Raw(b'{"a": 1.0}'), "2020-01-01T00:00:00Z", "far", 7, "paris", True
    )
    node.relay(publication)
    [frame] = node.replay(["news"], f"{node.epoch}:0").frames
    assert frame.data == publication.frame("news", 1).data


async def test_a_topic_that_is_named_twice_counts_once() -> None:
    node = await a_node(limits=ReplayLimits(messages=3))
    publish(node, "news", 2)
    assert len(node.replay(["news", "news"], f"{node.epoch}:0").frames) == 2


async def test_a_topic_that_does_not_fit_is_not_recovered_and_disturbs_no_other() -> None:
    node = await a_node(limits=ReplayLimits(messages=10))
    publish(node, "one", 6)
    publish(node, "two", 6)
    publish(node, "three", 4)
    found = node.replay(["one", "two", "three"], f"{node.epoch}:0")
    assert found.recovered == {"one", "three"}
    assert len(found.frames) == 10


async def test_what_is_too_large_is_not_recovered() -> None:
    node = await a_node(limits=ReplayLimits(bytes=1000))
    node.publish("news", Raw(b'"%s"' % (b"x" * 2000)), STAMP)
    node.publish("sport", Raw(b'"%s"' % (b"x" * 600)), STAMP)
    assert node.replay(["news", "sport"], f"{node.epoch}:0").recovered == {"sport"}
    assert len(node.replay_last("news", 1).frames) == 0
    assert len(node.replay_last("sport", 1).frames) == 1


@pytest.mark.parametrize("topic", [".".join("a" * 32), "☃" * 85], ids=["deep", "not ASCII"])
async def test_what_does_not_fit_is_not_encoded_for_each_context_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    node = await a_node(limits=ReplayLimits(bytes=10_000))
    publish(node, topic, 100)
    encoded: list[object] = []
    monkeypatch.setattr("dwsps_channels.core.publication.encode_json", encoded.append)
    found = node.replay(contexts(topic), f"{node.epoch}:0")
    assert not found.recovered
    assert encoded == []


@pytest.mark.parametrize("topic", ["a", "☃", "a.b", '"\\'])
async def test_what_fits_exactly_is_recovered(topic: str) -> None:
    node = await a_node()
    publish(node, topic, 12)
    found = node.replay([topic], f"{node.epoch}:0")
    assert found.size == sum(len(frame.data) for frame in found.frames)
    for size, recovered in ((found.size, {topic}), (found.size - 1, frozenset())):
        node = await a_node(limits=ReplayLimits(bytes=size))
        publish(node, topic, 12)
        assert node.replay([topic], f"{node.epoch}:0").recovered == recovered


async def test_the_last_are_the_newest_that_fit() -> None:
    node = await a_node(limits=ReplayLimits(messages=3, bytes=250))
    publish(node, "news.uk", 9)
    assert [offset for offset, _, _ in deliveries(node.replay_last("news", 9))] == [8, 9]
    assert node.replay_last("news", 0).frames == []
    assert node.replay_last("sport", 5).frames == []


async def test_a_quiet_topic_is_recovered_though_a_noisy_one_has_pushed_the_log_on() -> None:
    node = await a_node()
    publish(node, "quiet", 1, "one")
    cursor = node.cursor
    publish(node, "noisy", 50_000, "flood")
    found = node.replay(["quiet", "noisy"], cursor)
    assert found.recovered == {"quiet"}
    assert not found.frames
    assert len(node.replay(["quiet"], f"{node.epoch}:0").frames) == 1


async def test_noise_on_many_topics_costs_a_quiet_one_nothing() -> None:
    node = await a_node()
    publish(node, "quiet", 1, "one")
    cursor = node.cursor
    for number in range(60_000):
        publish(node, f"noisy.{number}", 1, "flood")
    assert node.replay(["quiet", "noisy", "noisy.1"], cursor).recovered == {"quiet"}


async def test_what_is_not_kept_counts_as_missing_if_it_was_published() -> None:
    node = await a_node(Tail(history={"pointer": None}))
    cursor = node.cursor
    assert node.replay(["pointer"], cursor).recovered == {"pointer"}
    publish(node, "pointer.x")
    assert node.replay(["pointer", "pointer.x", "pointer.y"], cursor).recovered == {"pointer.y"}
    assert node.replay(["pointer"], node.cursor).recovered == {"pointer"}


async def test_a_kept_root_has_a_place_of_its_own() -> None:
    node = await a_node(Tail(Retention(messages=5), {"chat": Retention(messages=100)}))
    publish(node, "chat.lobby", 50)
    publish(node, "news", 1000)
    assert len(node.replay(["chat"], f"{node.epoch}:0").frames) == 50
    assert len(node.replay_last("news", 100).frames) == 5


async def test_frames_are_encoded_once_for_all_who_resume() -> None:
    node = await a_node()
    publish(node, "news.uk", 3)
    first, second = (node.replay(["news"], f"{node.epoch}:0").frames for _ in range(2))
    assert first is second  # joined once, too


async def test_frames_are_encoded_once_for_those_who_have_missed_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = await a_node()
    publish(node, "news.uk", 3)
    every = node.replay(["news"], f"{node.epoch}:0").frames
    encoded: list[object] = []
    monkeypatch.setattr("dwsps_channels.core.publication.encode_json", encoded.append)
    for after in (2, 1, 0):
        found = node.replay(["news", "sport"], f"{node.epoch}:{after}")
        assert found.frames == every[after:]
        assert found.size == sum(len(frame.data) for frame in found.frames)
    assert node.replay(["news"], f"{node.epoch}:0").frames is every
    assert encoded == []


async def test_frames_are_encoded_once_for_those_who_are_denied_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = await a_node()
    for topic in ("news", "news.staff", "news.uk"):
        publish(node, topic)
    every = node.replay(["news"], f"{node.epoch}:0").frames
    encoded: list[object] = []
    monkeypatch.setattr("dwsps_channels.core.publication.encode_json", encoded.append)
    found = node.replay(["news"], f"{node.epoch}:0", {"news": frozenset({"news.staff"})})
    assert found.frames == [every[0], every[2]]
    assert node.replay(["news"], f"{node.epoch}:0").frames is every
    assert encoded == []


async def test_those_who_are_denied_the_same_share_what_is_encoded() -> None:
    node = await a_node()
    for topic in ("news", "news.staff", "news.uk", "news.staff"):
        publish(node, topic)

    def frames(after: int, *denied: str) -> Frames:
        without = {"news": frozenset(denied)}
        return node.replay(["news"], f"{node.epoch}:{after}", without).frames

    first = frames(0, "news.staff")
    assert frames(0, "news.staff") is first  # joined once, too
    assert frames(1, "news.staff") == frames(2, "news.staff") == first[1:]
    assert frames(3, "news.staff") == []
    assert len(frames(0, "news.uk")) == 3
    publish(node, "news.staff")
    assert frames(0, "news.staff") == first
    publish(node, "news")
    assert len(frames(0, "news.staff")) == 3


@pytest.mark.parametrize("denied", [(), ("news.staff",)])
async def test_one_who_has_missed_more_than_the_one_before_gets_all_of_it(
    denied: tuple[str, ...],
) -> None:
    node = await a_node()
    publish(node, "news", 9)
    for after in (6, 3, 0):
        found = node.replay(["news"], f"{node.epoch}:{after}", {"news": frozenset(denied)})
        assert [offset for offset, _, _ in deliveries(found)] == list(range(after + 1, 10))


async def test_parts_of_which_something_is_left_out_are_bounded() -> None:
    node = await a_node()
    publish(node, "news", 3)
    for number in range(200):
        denied = {"news": frozenset({f"news.{number}"})}
        assert len(node.replay(["news"], f"{node.epoch}:0", denied).frames) == 3
    assert len(node._replayer._parts_without) <= MAX_PARTS_WITHOUT


async def test_the_memory_of_frames_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def held() -> int:
        gc.collect()
        return sum(type(each) is _Part for each in gc.get_objects())

    before = held()
    monkeypatch.setattr(replay, "CACHE_BYTES", 20_000)
    node = await a_node()
    for number in range(100):
        publish(node, f"news.{number}", 2)
        assert len(node.replay([f"news.{number}"], f"{node.epoch}:0").frames) == 2
    assert 0 < held() - before < 20


def test_without_a_log_nothing_is_recovered() -> None:
    node = Node("here", RecordingBroker())
    node.receive(Publication("news", Raw(b"1"), STAMP, "here", 1), None)
    assert node.replay(["news"], ":0") == node.replay_last("news", 1) == Replay()


def test_another_log_has_other_frames() -> None:
    node = Node("here", RecordingBroker())
    for epoch in ("one", "two"):
        node.begin(Log(epoch))
        node.receive(Publication("news", Raw(b'"%s"' % epoch.encode()), STAMP, "here", 1), 1)
        [frame] = node.replay(["news"], f"{epoch}:0").frames
        assert json.loads(frame.data)["message"] == epoch


def test_a_message_of_a_peer_that_came_twice_is_replayed_once() -> None:
    node = Node("here", RecordingBroker())
    sent = Publication("news", Raw(b"[1]"), STAMP, "far", 1, "paris", True)
    node.begin(Log("one", 2, 0, [(1, sent), (2, sent)]))
    node.receive(sent, 3)
    assert [offset for offset, _, _ in deliveries(node.replay(["news"], "one:0"))] == [1]
    # What it has had before is not taken for sent twice when the broker begins again.
    node.begin(Log("one", 3, 0, [(1, sent), (2, sent), (3, sent)]))
    assert [offset for offset, _, _ in deliveries(node.replay(["news"], "one:0"))] == [1]


def test_the_size_of_an_entry_is_its_messages_and_topics_and_some_more() -> None:
    tail = Tail()
    tail.append(Publication("news", Raw(b"12345"), STAMP, "here", 1), 1)
    [entry] = tail.last("news", 1)
    assert entry.size == ENTRY_BYTES + 4 + 5
