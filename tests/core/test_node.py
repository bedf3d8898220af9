"""A node hands publications to the broker, and delivers what comes back."""

from dataclasses import dataclass, field

import pytest
from msgspec import Raw
from msgspec.structs import replace

from dwsps_channels.broker.memory import MemoryBroker
from dwsps_channels.core.log import Log
from dwsps_channels.core.node import Node
from dwsps_channels.core.page import Position
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.subscription import Subscriber
from dwsps_channels.protocol.errors import InvalidTopic, Unavailable
from tests.core.recording import STAMP, RecordingBroker, RecordingTransport, World, future, turn


@dataclass
class Reader:
    """A subscriber to ``news`` and a reader of the log of one node."""

    node: Node
    transport: RecordingTransport = field(default_factory=RecordingTransport)

    def __post_init__(self) -> None:
        self.node.hub.subscribe(Subscriber(self.transport), "news")

    @property
    def delivered(self) -> list[int]:
        return [each["message"] for each in self.transport.take()]

    @property
    def kept(self) -> list[int]:
        """The sequences of what a worker reads."""
        page = self.node._tail.page(0, 0, messages=100, size=2**20)
        return [each.publication.sequence for each in page.entries]


@pytest.fixture
def reader(world: World) -> Reader:
    return Reader(world.node)


def publish(world: World, number: int) -> object:
    return world.node.publish("news", Raw(str(number).encode()), STAMP, "ann")


def test_a_publication_has_a_name_and_its_publisher(world: World) -> None:
    publish(world, 1)
    publish(world, 2)
    first, second = world.broker.taken
    assert (first.origin, first.sequence, first.publisher, first.from_peer_server) == (
        world.node._origin,
        1,
        "ann",
        False,
    )
    assert second.sequence == 2


def test_the_broker_that_has_it_at_once_gives_the_offset(world: World, reader: Reader) -> None:
    assert [publish(world, number) for number in range(3)] == [1, 2, 3]
    assert reader.delivered == [0, 1, 2]
    assert reader.kept == [1, 2, 3]


async def test_what_waits_for_the_broker_is_delivered_when_it_comes_back(
    world: World, reader: Reader
) -> None:
    world.broker.answer = accepted = future()
    assert publish(world, 1) is accepted
    assert reader.delivered == reader.kept == []
    accepted.set_result(None)
    await turn()
    assert (reader.delivered, reader.kept) == ([1], [1])


async def test_what_the_broker_refuses_reaches_nobody(world: World, reader: Reader) -> None:
    world.broker.answer = refused = future()
    publish(world, 1)
    refused.set_exception(Unavailable("redis is away"))
    await turn()
    assert reader.delivered == reader.kept == []


async def test_what_the_broker_refuses_at_once_leaves_no_gap_in_the_sequence(
    world: World, reader: Reader
) -> None:
    world.broker.answer = refused = future()
    refused.set_exception(Unavailable("redis is away"))
    for number in range(3):
        publish(world, number)
    world.broker.answer = None
    publish(world, 3)
    assert reader.kept == [1]


def test_what_another_process_published_is_delivered_and_kept(world: World, reader: Reader) -> None:
    elsewhere = World(origin="elsewhere")
    publish(elsewhere, 1)
    world.receive(elsewhere.broker.taken[0])
    assert world.broker.taken == []
    assert (reader.delivered, reader.kept) == ([1], [1])


def test_what_a_peer_forwards_is_delivered_once_and_not_kept(world: World, reader: Reader) -> None:
    publish(elsewhere := World(origin="far"), 1)
    forwarded = replace(elsewhere.broker.taken[0], publisher="north", from_peer_server=True)
    assert world.node.relay(forwarded) == 1
    assert world.node.relay(forwarded) is None
    world.receive(forwarded)
    assert (reader.delivered, reader.kept) == ([1], [])


def test_a_peers_topic_that_is_none_is_not_handed_over(world: World) -> None:
    publish(elsewhere := World(origin="far"), 1)
    forwarded = replace(elsewhere.broker.taken[0], topic="news..uk", from_peer_server=True)
    with pytest.raises(InvalidTopic):
        world.node.relay(forwarded)
    assert world.broker.taken == []


async def test_all_processes_deliver_in_the_brokers_order() -> None:
    one, other = World("one"), World("other")
    readers = Reader(one.node), Reader(other.node)
    one.broker.answer, other.broker.answer = future(), future()
    publish(one, 1)
    publish(other, 2)
    for published in (other.broker.taken[0], one.broker.taken[0]):
        for world in (one, other):
            world.receive(published)
    assert [reader.delivered for reader in readers] == [[2, 1], [2, 1]]
    assert [reader.kept for reader in readers] == [[1, 1], [1, 1]]


async def test_stats_are_what_was_counted() -> None:
    node = Node("here", broker := MemoryBroker())
    await broker.start(node)
    assert (node.stats().published, node.stats().offset) == (0, 0)
    reader = Reader(node)
    node.hub.lagging.add(Subscriber(reader.transport))
    for _ in range(3):
        node.publish("news", Raw(b"1"), STAMP)
    stats = node.stats()
    assert (stats.published, stats.offset, stats.kept) == (3, 3, 3)
    assert (stats.topics, stats.lagging, stats.readers, stats.remembered) == (1, 1, 0, 0)
    node.wait(lambda: None)
    assert node.stats().readers == 1


class TestLog:
    async def test_the_cursor_is_the_end_of_the_log(self) -> None:
        broker = MemoryBroker()
        node = Node("here", broker)
        assert node.cursor == ""
        await broker.start(node)
        assert node.cursor == f"{node.epoch}:0"
        node.publish("news", Raw(b"1"), STAMP)
        assert node.cursor == f"{node.epoch}:1"

    def test_each_beginning_is_a_reset_for_who_is_there(self) -> None:
        resets: list[str] = []
        node = Node("here", RecordingBroker(), on_reset=lambda: resets.append(node.cursor))
        node.begin(Log("one", offset=7))
        assert node.cursor == "one:7"
        node.begin(Log("two", offset=3))
        assert resets == ["one:7", "two:3"]

    async def test_a_key_that_is_known_leaves_no_gap_in_the_sequence(self) -> None:
        broker = MemoryBroker()
        node = Node("here", broker)
        await broker.start(node)
        answers = [node.publish("news", Raw(b"1"), STAMP, key=key) for key in ("a", "a", "b")]
        sequences = [each.publication.sequence for each in node.page(Position()).entries]
        assert (answers, sequences) == ([1, 1, 2], [1, 2])

    def test_what_peers_sent_before_is_recognised(self) -> None:
        node = Node("here", RecordingBroker())
        known = Publication("news", Raw(b"1"), STAMP, "far", 1, "paris", from_peer_server=True)
        node.begin(Log("one", offset=1, publications=[(1, known)]))
        assert node.relay(known) is None

    def test_what_other_processes_published_is_recognised_if_a_peer_sends_it(self) -> None:
        node = Node("here", RecordingBroker())
        ours = [Publication("news", Raw(b"1"), STAMP, origin, 1) for origin in ("one", "two")]
        node.begin(Log("one", offset=1, publications=[(1, ours[0])]))
        node.receive(ours[1], 2)
        for each in ours:
            assert node.relay(replace(each, publisher="north", from_peer_server=True)) is None
