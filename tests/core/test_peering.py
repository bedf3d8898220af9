"""Sessions of peers: relaying. test_feed.py has those of the worker."""

from typing import Any

import pytest

from dwsps_channels.core.identity import Identity, Role
from dwsps_channels.core.page import Position
from dwsps_channels.core.peer_session import PeerSession
from dwsps_channels.protocol.errors import Unavailable
from tests.core.recording import (
    ORIGIN,
    STAMP,
    Client,
    RecordingPolicy,
    World,
    future,
    is_error,
    peer,
    publish,
    subscribe,
    turn,
)


def forwarded(number: int, topic: str = "news", origin: str = "far", **fields: Any) -> str:
    """Return a publish as a server of ours forwards it."""
    return publish(
        topic,
        number,
        timestamp=STAMP,
        fromPeerServer=True,
        id=number,
        origin=origin,
        **fields,
    )


@pytest.fixture
def world() -> World:
    return World()


def reader(world: World) -> Client:
    client = world.connect("reader")
    client.send(subscribe("news"))
    return client


def messages(client: Client) -> list[Any]:
    return [each["message"] for each in client.transport.take()]


def counted(link: Client) -> tuple[int, int, int]:
    """Return how many messages of the peer were received, were duplicates, were refused."""
    session = link.session
    assert isinstance(session, PeerSession)
    return session.received, session.duplicates, session.refused


class TestRelaying:
    def test_what_was_seen_already_is_acknowledged_and_not_delivered_again(
        self, world: World
    ) -> None:
        subscriber, link = reader(world), world.connect(identity=peer("link"))
        for number in (1, 2, 1, 2, 3):
            [answer] = link.send(forwarded(number))
            assert (answer["type"], answer["id"]) == ("ack", number)
        assert messages(subscriber) == [1, 2, 3]
        assert [each.sequence for each in world.broker.taken] == [1, 2, 3]

    def test_another_link_s_copy_is_known_too(self, world: World) -> None:
        subscriber = reader(world)
        for name in ("one", "two"):
            world.connect(identity=peer(name)).send(forwarded(1))
        assert messages(subscriber) == [1]

    def test_the_same_number_of_another_origin_is_another_message(self, world: World) -> None:
        subscriber, link = reader(world), world.connect(identity=peer("link"))
        link.send(forwarded(1, origin="far"))
        link.send(forwarded(1, origin="farther"))
        assert messages(subscriber) == [1, 1]

    def test_a_peer_cannot_replace_what_another_forwards(self, world: World) -> None:
        subscriber = reader(world)
        good, bad = (world.connect(identity=peer(name, name)) for name in ("good", "bad"))
        bad.send(forwarded(1, origin="good's"))
        [answer] = good.send(forwarded(1, origin="good's"))
        assert answer["type"] == "ack"
        assert messages(subscriber) == [1, 1]
        # Nor on the server's other processes.
        elsewhere = World()
        subscriber = reader(elsewhere)
        for publication in world.broker.taken:
            elsewhere.receive(publication)
            elsewhere.receive(publication)
        assert messages(subscriber) == [1, 1]

    async def test_a_peer_cannot_hold_up_what_another_forwards(self, world: World) -> None:
        good, bad = (world.connect(identity=peer(name, name)) for name in ("good", "bad"))
        world.broker.answer = future()
        assert bad.send(forwarded(1, origin="good's")) == []
        world.broker.answer = None
        [answer] = good.send(forwarded(1, origin="good's"))
        assert answer["type"] == "ack"

    def test_a_peer_that_claims_an_origin_of_ours_harms_only_itself(self, logged: World) -> None:
        world, subscriber = logged, reader(logged)
        link = world.connect(identity=peer("link"))
        for number in (1, 2, 3):
            link.send(forwarded(number, origin=ORIGIN))
        client = world.connect()
        for number in (1, 2, 3):
            client.send(publish("news", f"ours {number}"))
        assert messages(subscriber) == ["ours 1", "ours 2", "ours 3"]
        assert len(world.node.page(Position()).entries) == 3

    def test_what_a_dwsps_1_0_1_server_forwards_is_delivered_each_time(self, world: World) -> None:
        subscriber, link = reader(world), world.connect(identity=peer("link"))
        for _ in range(2):
            [answer] = link.send(publish("news", "same", fromPeerServer=True))
            assert answer["type"] == "ack"
        assert messages(subscriber) == ["same", "same"]

    def test_what_was_published_here_and_comes_back_is_not_delivered_again(
        self, world: World
    ) -> None:
        subscriber, elsewhere = reader(world), World(origin="another process of this server")
        world.connect().send(publish("news", 1))
        elsewhere.connect().send(publish("news", 2))
        world.receive(elsewhere.broker.taken[0])
        link = world.connect(identity=peer("link"))
        for origin in (ORIGIN, "another process of this server"):
            [answer] = link.send(forwarded(1, origin=origin))
            assert answer["type"] == "ack"
        assert messages(subscriber) == [1, 2]

    async def test_a_copy_of_what_is_still_on_its_way_is_to_be_sent_again(
        self, world: World
    ) -> None:
        """Its link was cut, and the broker has not answered the first one."""
        subscriber, link = reader(world), world.connect(identity=peer("link"))
        world.broker.answer = accepted = future()
        assert link.send(forwarded(1)) == []
        [answer] = world.connect(identity=peer("link")).send(forwarded(1))
        assert (answer["code"], answer["retryable"]) == ("unavailable", True)
        accepted.set_result(None)
        await turn()
        [answer] = world.connect(identity=peer("link")).send(forwarded(1))
        assert answer["type"] == "ack"
        assert messages(subscriber) == [1]

    def test_what_a_client_says_of_an_origin_is_not_looked_at(self, world: World) -> None:
        [answer] = world.connect().send(publish("news", 1, origin=5))
        assert answer["type"] == "ack"

    def test_the_policy_is_not_asked_and_workers_do_not_get_it(self, logged: World) -> None:
        policy = RecordingPolicy(lambda: False)
        link = logged.connect(identity=peer("link"), policy=policy)
        assert [each["type"] for each in link.send(forwarded(1))] == ["ack"]
        assert policy.asked == []
        page = logged.node.page(Position())
        assert (list(page.entries), page.end) == ([], 1)

    async def test_nobody_gets_it_before_the_broker_has_accepted_it(self, world: World) -> None:
        subscriber, link = reader(world), world.connect(identity=peer("link"))
        world.broker.answer = accepted = future()
        assert link.send(forwarded(1)) == []
        assert subscriber.transport.take() == []
        accepted.set_result(None)
        await turn()
        assert messages(subscriber) == [1]
        assert [each["type"] for each in link.transport.take()] == ["ack"]

    async def test_what_the_broker_refused_is_taken_when_it_is_sent_again(
        self, world: World
    ) -> None:
        subscriber, link = reader(world), world.connect(identity=peer("link"))
        world.broker.answer = refused = future()
        refused.set_exception(Unavailable("redis is away"))
        link.send(forwarded(1))
        await turn()
        [answer] = link.transport.take()
        assert is_error(answer, "unavailable", action="publish", topic="news", id=1)
        assert subscriber.transport.take() == []
        world.broker.answer = None
        assert [each["type"] for each in link.send(forwarded(1))] == ["ack"]
        assert messages(subscriber) == [1]

    async def test_nothing_gets_ahead_of_what_the_broker_refused(self, world: World) -> None:
        subscriber, link = reader(world), world.connect(identity=peer("link"))
        world.broker.answer = refused = future()
        refused.set_exception(Unavailable("redis is away"))
        link.send(forwarded(1))
        await turn()
        link.transport.take()
        world.broker.answer = None  # it is back, and the rest of what was on its way comes in
        for number in (2, 3):
            [answer] = link.send(forwarded(number))
            assert is_error(answer, "unavailable", action="publish", topic="news", id=number)
            assert answer["retryable"] is True
        for number in (1, 2, 3):
            [answer] = link.send(forwarded(number))
            assert answer["type"] == "ack"
        assert messages(subscriber) == [1, 2, 3]

    async def test_many_may_be_on_their_way_at_once(self, world: World) -> None:
        subscriber, link = reader(world), world.connect(identity=peer("link"))
        futures = []
        for number in (1, 2, 3):
            futures.append(future())
            world.broker.answer = futures[-1]
            assert link.send(forwarded(number)) == []
        assert subscriber.transport.take() == []
        for accepted in futures:
            accepted.set_result(None)
        await turn()
        assert messages(subscriber) == [1, 2, 3]
        assert [answer["id"] for answer in link.transport.take()] == [1, 2, 3]

    @pytest.mark.parametrize("is_told", [False, True], ids=["in the same turn", "later"])
    @pytest.mark.parametrize("step", [1, -1], ids=["in order", "the last first"])
    async def test_nothing_gets_ahead_of_those_that_the_broker_refused_together(
        self, world: World, is_told: bool, step: int
    ) -> None:
        """As where Redis goes: what was being sent is refused, and what stood in line behind it."""
        subscriber, link = reader(world), world.connect(identity=peer("link"))
        futures = [future() for _ in range(3)]
        for number, accepted in enumerate(futures, 1):
            world.broker.answer = accepted
            link.send(forwarded(number))
        futures[0].set_result(None)
        for accepted in futures[1:][::step]:
            accepted.set_exception(Unavailable("redis is away"))
        if is_told:
            await turn()
        world.broker.answer = None  # it is back
        answers = link.send(forwarded(4))
        await turn()
        assert messages(subscriber) == [1]
        answers += link.transport.take()
        assert [answer["id"] for answer in answers] == [1, 2, 3, 4]
        assert [answer.get("code", "ack") for answer in answers] == ["ack", *["unavailable"] * 3]

        for number in (3, 4):
            [answer] = link.send(forwarded(number))
            assert answer["code"] == "unavailable"
        for number in (2, 3, 4):
            [answer] = link.send(forwarded(number))
            assert answer["type"] == "ack"
        assert messages(subscriber) == [2, 3, 4]

    async def test_what_comes_without_a_name_waits_for_nothing(self, world: World) -> None:
        link = world.connect(identity=peer("old"))
        world.broker.answer = refused = future()
        refused.set_exception(Unavailable("redis is away"))
        link.send(publish("news", 1, fromPeerServer=True))
        await turn()
        assert [each["code"] for each in link.transport.take()] == ["unavailable"]
        world.broker.answer = None
        [answer] = link.send(publish("news", 2, fromPeerServer=True))
        assert answer["type"] == "ack"

    def test_what_the_broker_brings_again_is_not_delivered_again(self, world: World) -> None:
        """Another process took it, was killed before its ack, and took it again."""
        subscriber, link = reader(world), World().connect(identity=peer("link"))
        assert link.send(forwarded(1))
        elsewhere = World()
        elsewhere.connect(identity=peer("link")).send(forwarded(1))
        [publication] = elsewhere.broker.taken
        world.receive(publication)
        world.receive(publication)
        world.connect(identity=peer("link")).send(forwarded(1))
        assert messages(subscriber) == [1]

    async def test_what_a_peer_sends_is_counted_once_by_what_became_of_it(
        self, world: World
    ) -> None:
        link = world.connect(identity=peer("link"))
        for number in (1, 2, 2, 1, 2):
            link.send(forwarded(number))
        assert counted(link) == (2, 3, 0)
        link.send(forwarded(3, topic="a..b"))
        link.send("no frame at all")
        assert counted(link) == (2, 3, 1)
        accepted, refused, unnamed = future(), future(), future()
        world.broker.answer = accepted
        link.send(forwarded(4))
        world.broker.answer = refused
        link.send(forwarded(5))
        world.broker.answer = unnamed
        link.send(publish("news", 6, fromPeerServer=True))
        assert counted(link) == (2, 3, 1)
        accepted.set_result(4)
        unnamed.set_result(6)
        refused.set_exception(Unavailable("redis is away"))
        await turn()
        assert counted(link) == (4, 3, 2)
        world.broker.answer = None
        link.send(forwarded(6))  # is to wait for the one before it
        assert counted(link) == (4, 3, 3)
        link.send(forwarded(5))
        assert counted(link) == (5, 3, 3)

    @pytest.mark.parametrize("role", [Role.CLIENT, Role.WORKER, Role.PUBLISHER])
    def test_nobody_else_may_relay(self, world: World, role: Role) -> None:
        subscriber = reader(world)
        [answer] = world.connect(identity=Identity("forger", role=role)).send(forwarded(1))
        assert answer["code"] == "forbidden"
        assert subscriber.transport.take() == []
