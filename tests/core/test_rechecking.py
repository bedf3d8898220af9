"""Decisions that are taken again while a connection stands."""

from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Any

from dwsps_channels.core.identity import Identity
from dwsps_channels.core.policy import Decision
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Unavailable
from tests.core.recording import STAMP, World, delivery, is_error, publish, subscribe


@dataclass
class User:
    pk: int
    is_authenticated: bool = True


class Rules:
    """Allows what is in ``allowed``, at once or later."""

    def __init__(self, *allowed: str, later: bool = False) -> None:
        self.allowed = set(allowed)
        self.later = later
        self.asked: list[tuple[Any, str]] = []

    def may_subscribe(self, identity: Identity, topic: str) -> Any:
        self.asked.append((identity.user, topic))
        return self._answer(topic) if self.later else topic in self.allowed

    async def _answer(self, topic: str) -> bool:
        return topic in self.allowed

    def may_publish(self, identity: Identity, topic: str) -> Any:
        return True


def unsubscribed(topic: str, code: str = "forbidden") -> dict[str, str]:
    reason = f"not allowed to subscribe to '{topic}'"
    return {"type": "unsubscribed", "topic": topic, "code": code, "reason": reason}


async def settle(pending: Awaitable[None] | None) -> None:
    if pending is not None:
        await pending


async def test_a_subscription_that_is_not_allowed_any_more_ends(world: World) -> None:
    rules = Rules("news", "sport")
    client, publisher = world.connect(policy=rules), world.connect("publisher")
    client.send(subscribe("news"))
    client.send(subscribe("sport"))
    rules.allowed.remove("news")

    assert client.session.recheck(None) is None

    assert client.transport.take() == [unsubscribed("news")]
    publisher.send(publish("news", timestamp=STAMP))
    publisher.send(publish("sport", timestamp=STAMP))
    assert client.transport.take() == [delivery("sport", "sport")]
    assert ("unsubscribed", "one", "news") in world.observer.told


async def test_only_subscriptions_at_above_and_below_the_topics_are_asked_about(
    world: World,
) -> None:
    topics = ["news", "news.uk", "news.uk.london", "news.us", "newsroom", "sport"]
    rules = Rules(*topics)
    client = world.connect(policy=rules)
    for topic in topics:
        client.send(subscribe(topic))
    rules.asked.clear()

    client.session.recheck(["news.uk", "weather"])

    assert [topic for _, topic in rules.asked] == ["news", "news.uk", "news.uk.london"]


async def test_the_reason_of_a_decision_is_told(world: World) -> None:
    answers: list[Any] = [True]

    class Policy(Rules):
        def may_subscribe(self, identity: Identity, topic: str) -> Any:
            return answers[-1]

    client = world.connect(policy=Policy())
    client.send(subscribe("news"))
    answers.append(Decision(False, "it is closed"))
    client.session.recheck(None)
    (told,) = client.transport.take()
    assert told["reason"] == "not allowed to subscribe to 'news': it is closed"


async def test_a_client_that_is_nobody_any_more_is_closed(world: World) -> None:
    client = world.connect(policy=Rules("news"))
    client.send(subscribe("news"))

    async def nobody() -> None:
        return None

    await client.session.verify(nobody)

    assert client.transport.code == CloseCode.UNAUTHORIZED
    assert is_error(client.transport.final_frame, "unauthorized")
    assert world.is_empty()


async def test_a_client_that_cannot_be_looked_up_is_closed(world: World) -> None:
    client = world.connect(policy=Rules("news"))

    async def fail() -> Identity:
        raise Unavailable("no database")

    await client.session.verify(fail)

    assert client.transport.code == CloseCode.UNAUTHORIZED


async def test_the_policy_is_asked_with_the_user_that_was_looked_up(world: World) -> None:
    rules, before, after = Rules("news"), User(1), User(1)
    client = world.connect(policy=rules, identity=Identity("one", user=before))
    client.send(subscribe("news"))

    async def look_up() -> Identity:
        return replace(client.session.identity, user=after)

    await client.session.verify(look_up)

    assert client.session.identity.user is after
    assert rules.asked[-1][0] is after
