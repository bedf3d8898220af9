"""``$dwsps`` and what is below it are the server's: no connection subscribes, publishes, forwards or reads there."""

import pytest
from msgspec import Raw

from dwsps_channels.core.identity import Identity, Role
from dwsps_channels.core.publication import Publication
from dwsps_channels.protocol.errors import InvalidTopic
from tests.core.recording import (
    STAMP,
    World,
    frame,
    is_error,
    peer,
    publish,
    resume,
    subscribe,
)

RESERVED = ["$dwsps", "$dwsps.notice", "$dwsps.notice.below"]

pytestmark = pytest.mark.parametrize("topic", RESERVED)


def test_clients_are_refused(world: World, topic: str) -> None:
    client = world.connect()
    for request in (subscribe(topic), subscribe(topic, last=1), publish(topic)):
        [answer] = client.send(request)
        assert (answer["code"], answer["topic"]) == ("invalid_topic", topic)
    [answer] = client.send(resume(["news", topic], since=""))
    assert answer["topics"]["news"] == {"recovered": False}
    assert answer["topics"][topic]["error"]["code"] == "invalid_topic"
    assert world.broker.taken == []


def test_the_servers_own_code_is_refused(world: World, topic: str) -> None:
    publisher = world.connect(identity=Identity("code", role=Role.PUBLISHER))
    [answer] = publisher.send(publish(topic))
    assert is_error(answer, "invalid_topic", action="publish", topic=topic)
    reader = world.connect(identity=Identity("page", role=Role.READER))
    [answer] = reader.send(frame("history", topic))
    assert is_error(answer, "invalid_topic", action="history", topic=topic)
    assert world.broker.taken == []


def test_peers_are_refused(world: World, topic: str) -> None:
    link = world.connect(identity=peer("link"))
    forwarded = publish(topic, timestamp=STAMP, fromPeerServer=True, id=1, origin="far")
    [answer] = link.send(forwarded)
    assert is_error(answer, "invalid_topic", action="publish", topic=topic, id=1)
    # What comes after it is not held up.
    [answer] = link.send(publish("news", timestamp=STAMP, fromPeerServer=True, id=2, origin="far"))
    assert answer["type"] == "ack"
    assert [publication.topic for publication in world.broker.taken] == ["news"]


def test_the_node_relays_none_of_it(world: World, topic: str) -> None:
    publication = Publication(
        topic, Raw(b"1"), STAMP, "far", 1, publisher="north", from_peer_server=True
    )
    with pytest.raises(InvalidTopic):
        world.node.relay(publication)
