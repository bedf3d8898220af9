"""Notices between the processes of a server, as the node takes and sends them."""

import asyncio
import json
from dataclasses import dataclass, field

import pytest
from msgspec import Raw
from msgspec.structs import replace

from dwsps_channels.broker.memory import MemoryBroker
from dwsps_channels.core.identity import Identity, Role
from dwsps_channels.core.log import Log
from dwsps_channels.core.node import Node
from dwsps_channels.core.notice import (
    EVERYTHING,
    Dated,
    Disconnect,
    Notice,
    Permission,
    Rules,
    Verify,
    decode,
    encode,
    notice_in,
    publication_of,
)
from dwsps_channels.core.page import Position
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.subscription import Subscriber
from dwsps_channels.protocol.errors import InvalidTopic, Unavailable
from dwsps_channels.protocol.topics import NOTICES
from tests.core.recording import (
    STAMP,
    RecordingTransport,
    World,
    future,
    is_error,
    peer,
    publish,
    subscribe,
    turn,
)

ALL: list[Notice] = [
    Verify(),
    Verify("7"),
    Disconnect(user="7"),
    Disconnect(session="abc"),
    Permission(),
    Permission(user="7", topic="news.uk"),
    Rules(),
]


@dataclass
class Listener:
    """A node, and what it says of notices."""

    heard: list[Notice] = field(default_factory=list)
    begun: list[list[Notice]] = field(default_factory=list)

    async def node(self) -> Node:
        broker = MemoryBroker()
        node = Node(
            "one",
            broker,
            on_notice=lambda dated: self.heard.append(dated.notice),
            on_begin=lambda dated: self.begun.append([each.notice for each in dated]),
        )
        await broker.start(node)
        return node


@pytest.mark.parametrize("notice", ALL)
def test_a_notice_is_read_as_it_was_written(notice: Notice) -> None:
    assert decode(encode(notice)) == notice


async def test_a_node_hears_its_own_notices_in_the_order_of_the_publications() -> None:
    listener, transport = Listener(), RecordingTransport()
    node = await listener.node()
    node.hub.subscribe(Subscriber(transport), "news")

    assert node.publish("news", Raw(b"1"), STAMP) == 1
    assert node.notify(Verify("7")) == 2
    assert node.publish("news", Raw(b"2"), STAMP) == 3

    assert listener.heard == [Verify("7")]
    assert [each["offset"] for each in transport.take_whole()] == [1, 3]


async def test_a_notice_says_when_it_was_sent(world: World) -> None:
    heard: list[Dated] = []
    node = Node("one", world.broker, on_notice=heard.append)
    publication = replace(publication_of(Rules()), timestamp="1970-01-01T00:01:00.500Z")
    node.receive(publication, 1)
    assert heard == [Dated(Rules(), 60.5)]


async def test_a_notice_is_neither_kept_for_clients_nor_given_to_workers() -> None:
    node = await Listener().node()
    node.publish("news", Raw(b"1"), STAMP)
    node.notify(Rules())
    node.publish("news", Raw(b"2"), STAMP)

    page = node.page(Position(f"{node.epoch}:0", 0.0))

    assert [each.offset for each in page.entries] == [1, 3]
    assert page.missed == 0
    assert node.stats().kept == 2


async def test_a_log_that_begins_gives_back_the_notices_that_it_has() -> None:
    listener = Listener()
    node = await listener.node()
    publications = [
        Publication("news", Raw(b"1"), STAMP, "other", 1),
        publication_of(Disconnect(session="abc")),
        publication_of(Verify("7")),
    ]
    node.begin(Log("a1", 3, 0, list(enumerate(publications, 1))))

    assert listener.begun[-1] == [EVERYTHING, Disconnect(session="abc"), Verify("7")]
    assert listener.heard == []
    assert node.stats().kept == 1
    assert node.page(Position("a1:0", 0.0)).missed == 0


async def test_publications_that_were_missed_may_have_been_notices() -> None:
    listener = Listener()
    node = await listener.node()
    begun = len(listener.begun)
    node.miss()
    assert listener.begun[begun:] == [[EVERYTHING]]


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (Log("a1", 7, 0), []),
        (Log("a1", 7, 5), []),
        (Log("a1", 7, 6), [EVERYTHING]),
        (Log("a1", 9, 8, [(6, publication_of(Rules()))], {NOTICES: 5}), [Rules()]),
        (Log("a1", 9, 8, [(7, publication_of(Rules()))], {NOTICES: 6}), [EVERYTHING, Rules()]),
        (Log("b2", 7, 0), [EVERYTHING]),
        (Log("b2", 8, 6, [(7, publication_of(Rules()))]), [EVERYTHING, Rules()]),
    ],
)
async def test_a_log_that_begins_again_may_lack_notices(log: Log, expected: list[Notice]) -> None:
    listener = Listener()
    node = Node(
        "one",
        MemoryBroker(),
        on_begin=lambda dated: listener.begun.append([each.notice for each in dated]),
    )
    node.begin(Log("a1", 5, 3))
    assert listener.begun == [[]]

    node.begin(log)

    assert listener.begun[1:] == [expected]


async def test_what_cannot_be_read_stands_for_everything() -> None:
    listener = Listener()
    node = await listener.node()
    for message in (
        b'{"type":"of another version"}',
        b'{"type":"permission","topic":"a..b"}',
        b"1",
    ):
        node.receive(Publication(NOTICES, Raw(message), STAMP, from_peer_server=True), 1)
    assert listener.heard == [EVERYTHING] * 3


def test_a_client_can_neither_send_nor_hear_one(world: World) -> None:
    client = world.connect()
    for frame in (
        publish(NOTICES, {"type": "rules"}),
        subscribe(NOTICES),
        subscribe("$dwsps"),
        subscribe("$dwsps.notice.below"),
    ):
        [error] = client.send(frame)
        assert error["code"] == "invalid_topic"
    assert world.broker.taken == []


def test_a_peer_cannot_send_one(world: World) -> None:
    client = world.connect(identity=peer("north"))
    [error] = client.send(publish(NOTICES, {"type": "rules"}, fromPeerServer=True))
    assert error["code"] == "invalid_topic"
    with pytest.raises(InvalidTopic):
        world.node.relay(publication_of(Rules()))
    assert world.broker.taken == []


PUBLISHER = Identity("elsewhere", role=Role.PUBLISHER)


def request(notice: object, **fields: object) -> str:
    return json.dumps({"type": "notice", "id": 1, "topic": NOTICES, "notice": notice, **fields})


def test_the_servers_own_code_elsewhere_sends_one(world: World) -> None:
    client = world.connect(identity=PUBLISHER)
    [answer] = client.send(request({"type": "verify", "user": "7"}))
    assert answer == {"type": "ack", "action": "notice", "id": 1}
    [publication] = world.broker.taken
    assert notice_in(publication).notice == Verify("7")


async def test_its_ack_comes_once_the_broker_has_it(world: World) -> None:
    client = world.connect(identity=PUBLISHER)
    for outcome in (None, Unavailable("redis is away")):
        world.broker.answer = accepted = future()
        pending = asyncio.ensure_future(client.start(request({"type": "rules"})))
        await turn()
        assert client.transport.take() == []
        if outcome is None:
            accepted.set_result(None)
        else:
            accepted.set_exception(outcome)
        await pending
        [answer] = client.transport.take()
        assert answer["type"] == ("ack" if outcome is None else "error")


def test_what_is_no_notice_is_refused(world: World) -> None:
    client = world.connect(identity=PUBLISHER)
    for found in ({"type": "unheard of"}, 1, None):
        [answer] = client.send(request(found))
        assert is_error(answer, "invalid_message", action="notice", topic=NOTICES, id=1)
    assert world.broker.taken == []


@pytest.mark.parametrize("role", [Role.CLIENT, Role.PEER, Role.READER, Role.WORKER])
def test_nobody_else_sends_one(world: World, role: Role) -> None:
    client = world.connect(identity=Identity("other", role=role, peer="north"))
    [answer] = client.send(request({"type": "rules"}))
    assert answer["code"] == "invalid_message"
    assert world.broker.taken == []
