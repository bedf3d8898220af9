"""Grants that clients bring: when they are asked about, and how long they are kept."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from msgspec import Raw

from dwsps_channels.core.identity import Identity
from dwsps_channels.core.log import Log
from dwsps_channels.core.policy import Decision
from dwsps_channels.protocol.errors import Forbidden
from tests.core.recording import (
    STAMP,
    Client,
    Message,
    World,
    ack,
    delivery,
    future,
    is_error,
    publish,
    resume,
    subscribe,
    turn,
    unsubscribe,
)


@dataclass(frozen=True)
class User:
    pk: int
    is_authenticated: bool = True


ADA, BOB = User(1), User(2)


class Grants:
    """Ada's grants, for the topics of ``valid``. Those that count no longer leave it to the policy."""

    def __init__(self, *valid: str) -> None:
        self.valid = set(valid)
        self.asked: list[tuple[str, str]] = []
        self.policy = ClosedPolicy()

    def check(self, identity: Identity, topic: str, grant: str) -> Any:
        self.asked.append((topic, grant))
        if identity.user != ADA:
            raise Forbidden(f"subscribe to '{topic}'", "the grant is another user's")
        if grant in self.valid:
            return Decision(True, recheck_after=60)
        return self.policy.may_subscribe(identity, topic)


class ClosedPolicy:
    """Allows the topics of ``allowed``; at once, or when ``waiting`` is done."""

    def __init__(self) -> None:
        self.allowed: set[str] = set()
        self.asked: list[str] = []
        self.waiting: Any = None

    def may_subscribe(self, identity: Identity, topic: str) -> Any:
        self.asked.append(topic)
        return topic in self.allowed if self.waiting is None else self.waiting

    def may_publish(self, identity: Identity, topic: str) -> Any:
        return topic in self.allowed


class Scheduled:
    """A scheduler that writes down what is to be rechecked."""

    def __init__(self) -> None:
        self.rechecks: list[tuple[str, float]] = []

    def time(self) -> float:
        return 0.0

    def call_later(self, seconds: float, callback: Any) -> Any:
        raise AssertionError("nothing expires here")

    async def gather(self, *questions: Awaitable[Any]) -> list[Any]:
        return [await each for each in questions]

    def failed(self, error: Exception) -> None:
        raise AssertionError("nothing fails here")

    def recheck_later(self, session: Any, topic: str, seconds: float) -> None:
        self.rechecks.append((topic, seconds))

    def forget_recheck(self, session: Any, topic: str) -> None:
        pass


@pytest.fixture
def grants() -> Grants:
    return Grants("of a")


@pytest.fixture
def scheduler() -> Scheduled:
    return Scheduled()


@pytest.fixture
def client(world: World, grants: Grants, scheduler: Scheduled) -> Client:
    world.node.begin(Log("log"))
    return world.connect(
        identity=Identity("one", ADA),
        policy=grants.policy,
        check_grant=grants.check,
        scheduler=scheduler,
    )


async def settle(pending: Awaitable[None] | None) -> None:
    if pending is not None:
        await pending


def why(message: Message) -> str:
    reason: str = message["reason"]
    return reason.rpartition(": ")[2]


def test_a_grant_is_asked_about_and_not_the_policy(client: Client, grants: Grants) -> None:
    assert client.send(subscribe("a.b", grant="of a")) == [ack("subscribe", "a.b")]
    assert grants.asked == [("a.b", "of a")]
    assert grants.policy.asked == []


def test_without_a_grant_the_policy_is_asked(client: Client, grants: Grants) -> None:
    (answer,) = client.send(subscribe("a"))

    assert is_error(answer, "forbidden", action="subscribe", topic="a")
    assert grants.asked == []


def test_a_bad_grant_is_refused_with_the_reason(world: World, grants: Grants) -> None:
    grants.policy.allowed.add("a")
    client = world.connect(identity=Identity("one", BOB), check_grant=grants.check)

    (answer,) = client.send(subscribe("a", grant="of a"))

    assert why(answer) == "the grant is another user's"
    assert grants.policy.asked == []


def test_no_grant_counts_where_none_are_made(world: World) -> None:
    client = world.connect()

    (answer,) = client.send(subscribe("a", grant="of a"))

    assert why(answer) == "this server makes no grants"


def test_a_grant_allows_no_publish(client: Client, grants: Grants) -> None:
    client.send(subscribe("a", grant="of a"))

    (answer,) = client.send(publish("a", grant="of a"))

    assert is_error(answer, "forbidden", action="publish", topic="a")


def test_a_resume_asks_about_the_grant_of_each_topic(
    world: World, client: Client, grants: Grants
) -> None:
    grants.policy.allowed.add("c")
    world.node.publish("a.b", Raw(b'"one"'), STAMP)
    world.node.publish("d", Raw(b'"two"'), STAMP)

    first, answer = client.send(
        resume(
            ["a.b", "c", "d", "e"], since="log:0", grants={"a.b": "of a", "d": "old", "x": "of a"}
        )
    )
    assert first == delivery("a.b", "a.b", "one")
    assert {topic: "error" not in outcome for topic, outcome in answer["topics"].items()} == {
        "a.b": True,
        "c": True,
        "d": False,
        "e": False,
    }
    assert grants.asked == [("a.b", "of a"), ("d", "old")]
    assert grants.policy.asked == ["c", "d", "e"]


@pytest.mark.parametrize("asked", [{"since": "log:0"}, {"last": 5}])
def test_what_is_replayed_is_what_the_grant_allows(
    world: World, client: Client, asked: dict[str, Any]
) -> None:
    world.node.publish("a.b", Raw(b'"one"'), STAMP)

    (refused,) = client.send(subscribe("a.b", grant="revoked", **asked))
    first, _ = client.send(subscribe("a.b", grant="of a", **asked))

    assert is_error(refused, "forbidden", action="subscribe", topic="a.b")
    assert first == delivery("a.b", "a.b", "one")


async def test_a_recheck_asks_about_the_grant_that_the_client_has_brought(
    client: Client, grants: Grants
) -> None:
    client.send(subscribe("a.b", grant="of a"))
    client.send(resume(["a.c"], since="log:0", grants={"a.c": "of a"}))
    grants.asked.clear()

    await settle(client.session.recheck(None))

    assert grants.asked == [("a.b", "of a"), ("a.c", "of a")]
    assert client.transport.take() == []


async def test_a_grant_that_was_revoked_ends_the_subscription_if_the_policy_says_so(
    world: World, client: Client, grants: Grants
) -> None:
    grants.policy.allowed.add("a.c")
    for topic in ("a.b", "a.c"):
        client.send(subscribe(topic, grant="of a"))
    grants.valid.clear()

    await settle(client.session.recheck(None))

    (told,) = client.transport.take()
    assert (told["type"], told["topic"]) == ("unsubscribed", "a.b")
    assert grants.policy.asked == ["a.b", "a.c"]
    for topic in ("a.b", "a.c"):
        world.node.publish(topic, Raw(f'"{topic}"'.encode()), STAMP)
    assert client.transport.take() == [delivery("a.c", "a.c", "a.c")]


async def test_the_grant_of_another_is_left_to_the_policy(client: Client, grants: Grants) -> None:
    client.send(subscribe("a.b", grant="of a"))

    async def look_up() -> Identity:
        return replace(client.session.identity, user=BOB)

    await client.session.verify(look_up)

    (told,) = client.transport.take()
    assert (told["type"], told["topic"]) == ("unsubscribed", "a.b")
    assert grants.policy.asked == ["a.b"]


async def test_what_the_client_has_asked_for_last_counts(client: Client, grants: Grants) -> None:
    client.send(subscribe("a.b", grant="of a"))
    grants.policy.allowed.add("a.b")
    client.send(subscribe("a.b"))
    grants.policy.allowed.clear()

    await settle(client.session.recheck(None))

    assert client.transport.take()[0]["type"] == "unsubscribed"


async def test_with_the_subscription_the_grant_is_gone(client: Client, grants: Grants) -> None:
    grants.policy.allowed.add("a.b")
    client.send(subscribe("a.b", grant="of a"))
    client.send(unsubscribe("a.b"))
    client.send(subscribe("a.b"))
    grants.asked.clear()

    await settle(client.session.recheck(None))

    assert grants.asked == []


async def test_it_is_asked_about_again_when_it_expires(
    client: Client, grants: Grants, scheduler: Scheduled
) -> None:
    client.send(subscribe("a.b", grant="of a"))
    client.send(resume(["a.c"], since="log:0", grants={"a.c": "of a"}))
    assert scheduler.rechecks == [("a.b", 60), ("a.c", 60)]

    await settle(client.session.recheck(["a.b"]))

    assert scheduler.rechecks[2:] == [("a.b", 60)]


# Races.


async def test_a_revocation_during_the_question_about_an_old_grant_counts(
    client: Client, grants: Grants
) -> None:
    """The policy would have allowed it before; it is asked again by the new state."""
    grants.policy.waiting = before = future()
    pending = client.session.receive(subscribe("a.b", grant="old"))
    assert pending is not None
    handled = asyncio.ensure_future(pending)
    await turn()
    grants.policy.waiting = None

    client.session.recheck(["a.b"])
    before.set_result(True)
    await handled

    assert is_error(client.transport.take()[0], "forbidden", action="subscribe", topic="a.b")


async def test_a_revocation_during_a_resume_counts_for_the_grants_in_it(
    world: World, client: Client, grants: Grants
) -> None:
    world.node.publish("a.b", Raw(b'"one"'), STAMP)
    grants.policy.waiting = other = future()
    pending = client.session.receive(resume(["a.b", "c"], since="log:0", grants={"a.b": "of a"}))
    assert pending is not None
    handled = asyncio.ensure_future(pending)
    await turn()
    grants.policy.waiting = None
    grants.policy.allowed.add("c")

    grants.valid.clear()
    client.session.recheck(["a"])
    other.set_result(True)
    await handled

    (answer,) = client.transport.take()
    assert answer["topics"]["a.b"]["error"]["code"] == "forbidden"
    assert "recovered" in answer["topics"]["c"]
