"""Tokens on a connection that stands, and what becomes of it when they expire."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from dwsps_channels.core.authenticator import Authentication
from dwsps_channels.core.identity import Identity
from dwsps_channels.core.policy import Decision
from dwsps_channels.core.scheduler import Recheckable
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Unavailable
from tests.core.recording import (
    Client,
    RecordingBroker,
    World,
    future,
    is_error,
    publish,
    subscribe,
    turn,
    unsubscribe,
)


@dataclass
class User:
    pk: int
    is_authenticated: bool = True


class Call:
    """A call that is due later."""

    def __init__(self, at: float, callback: Callable[[], object]) -> None:
        self.at = at
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Schedule:
    """A scheduler whose time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.calls: list[Call] = []
        self.rechecks: list[tuple[Recheckable, str, float]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Call:
        assert seconds >= 0
        call = Call(self.now + seconds, callback)
        self.calls.append(call)
        return call

    async def gather(self, *questions: Awaitable[Any]) -> list[Any]:
        return [await each for each in questions]

    def failed(self, error: Exception) -> None:
        raise AssertionError("nothing fails here")

    def recheck_later(self, session: Recheckable, topic: str, seconds: float) -> None:
        self.rechecks.append((session, topic, seconds))

    def forget_recheck(self, session: Recheckable, topic: str) -> None:
        self.rechecks = [each for each in self.rechecks if each[:2] != (session, topic)]

    def due(self) -> list[Call]:
        return [each for each in self.calls if not each.is_cancelled]

    def until(self, time: float) -> None:
        """Let time pass, and make the calls that are due by then."""
        while calls := [each for each in self.due() if each.at <= time]:
            call = min(calls, key=lambda each: each.at)
            self.calls.remove(call)
            self.now = max(self.now, call.at)
            call.callback()
        self.now = time


class OnlyUsers:
    """Lets users subscribe, and nobody else."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        return identity.is_authenticated

    def may_publish(self, identity: Identity, topic: str) -> bool:
        return identity.is_authenticated


TOKENS = {
    "ann": Authentication(User(1)),
    "ann for an hour": Authentication(User(1), expires_at=4600.0),
    "ann for ten seconds": Authentication(User(1), expires_at=1010.0),
    "ann for a month": Authentication(User(1), expires_at=1000.0 + 30 * 86_400),
    "bob": Authentication(User(2)),
    "past": Authentication(User(1), expires_at=1000.0),
    "anonymous": Authentication(User(3, is_authenticated=False)),
    "nobody": Authentication(None),
}


async def authenticator(token: str) -> Authentication | None:
    if token == "broken":
        raise KeyError("secret")
    if token == "busy":
        raise Unavailable("busy")
    return TOKENS.get(token)


@pytest.fixture
def schedule() -> Schedule:
    return Schedule()


@pytest.fixture
def client(world: World, schedule: Schedule) -> Client:
    return connect(world, schedule)


def connect(world: World, schedule: Schedule, user: Any = None) -> Client:
    return world.connect(
        identity=Identity("one", user=user),
        policy=OnlyUsers(),
        authenticator=authenticator,
        scheduler=schedule,
    )


def authenticate(token: str, **fields: Any) -> str:
    return json.dumps({"type": "authenticate", "token": token, **fields})


async def answers(client: Client, token: str) -> list[Any]:
    await client.start(authenticate(token, id=1))
    return client.transport.take()


async def test_an_anonymous_client_becomes_a_user(world: World, client: Client) -> None:
    assert is_error(
        client.send(subscribe("news"))[0], "forbidden", action="subscribe", topic="news"
    )
    assert await answers(client, "ann") == [{"type": "ack", "action": "authenticate", "id": 1}]
    assert client.send(subscribe("news"))[0]["type"] == "ack"
    assert list(world.sessions.of_user(1)) == [client.session]


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("unknown", "the token is not valid"),
        ("past", "the token has expired"),
        ("anonymous", "the token stands for no user"),
        ("nobody", "the token stands for no user"),
        ("bob", "the token is another user's"),
    ],
)
async def test_a_bad_token_changes_nothing(
    world: World, schedule: Schedule, token: str, reason: str
) -> None:
    client = connect(world, schedule, User(1))
    client.send(subscribe("news"))
    before = client.session.identity
    (told,) = await answers(client, token)
    assert is_error(told, "unauthorized", action="authenticate", id=1)
    assert told["reason"] == reason
    assert client.session.identity is before
    assert world.node.hub.reach("news") == 1
    assert schedule.due() == []
    assert client.transport.code is None


@pytest.mark.parametrize("token", ["broken", "busy"])
async def test_a_token_that_cannot_be_checked_may_be_sent_again(client: Client, token: str) -> None:
    (told,) = await answers(client, token)
    assert is_error(told, "unavailable", action="authenticate", id=1)
    assert "secret" not in told["reason"]


async def test_without_an_authenticator_there_are_no_tokens(world: World) -> None:
    client = world.connect()
    (told,) = client.send(authenticate("ann", id=1))
    assert is_error(told, "unauthorized", action="authenticate", id=1)


async def test_the_same_user_goes_on(world: World, schedule: Schedule) -> None:
    client = connect(world, schedule, User(1))
    client.send(subscribe("news"))
    await answers(client, "ann")
    assert client.session.identity.user is TOKENS["ann"].user
    assert world.node.hub.reach("news") == 1


async def test_a_user_that_cannot_tell_its_key_is_not_replaced(
    world: World, schedule: Schedule
) -> None:
    class Broken:
        is_authenticated = True

        @property
        def pk(self) -> int:
            raise LookupError("no database")

    user = Broken()
    client = connect(world, schedule, user)
    (told,) = await answers(client, "ann")
    assert is_error(told, "unauthorized", action="authenticate", id=1)
    assert client.session.identity.user is user


async def test_subscriptions_are_asked_about_again(world: World, schedule: Schedule) -> None:
    class OnlyAnonymous(OnlyUsers):
        def may_subscribe(self, identity: Identity, topic: str) -> bool:
            return not identity.is_authenticated

    client = world.connect(policy=OnlyAnonymous(), authenticator=authenticator)
    client.send(subscribe("news"))
    assert [told["type"] for told in await answers(client, "ann")] == ["ack", "unsubscribed"]
    assert world.is_empty()


async def test_keys_are_those_of_the_user(world: World, client: Client) -> None:
    broker: RecordingBroker = world.broker
    anybody = world.connect("other", authenticator=authenticator)
    anybody.send(publish("news", key="k"))
    await anybody.start(authenticate("ann"))
    anybody.send(publish("news", key="k"))
    assert broker.keys == ["anonymous:k", "user:1:1:k"]


async def test_a_token_that_was_looked_up_before_a_recheck_is_looked_up_again(
    world: World, schedule: Schedule
) -> None:
    found = [future(), future()]
    asked: list[str] = []

    def look_up(token: str) -> Awaitable[Authentication | None]:
        asked.append(token)
        return found[len(asked) - 1]

    client = world.connect(authenticator=look_up)
    pending = client.start(authenticate("ann"))
    client.session.recheck(None)
    found[0].set_result(TOKENS["ann"])
    found[1].set_result(None)
    await pending
    assert asked == ["ann", "ann"]
    assert client.transport.take()[0]["code"] == "unauthorized"
    assert not client.session.identity.is_authenticated


async def test_a_client_that_is_sent_away_meanwhile_gets_nothing(
    world: World, schedule: Schedule
) -> None:
    found = future()
    client = world.connect(authenticator=lambda token: found, scheduler=schedule)
    pending = client.start(authenticate("ann"))
    client.session.closed()
    found.set_result(TOKENS["ann for an hour"])
    await pending
    assert not client.session.identity.is_authenticated
    assert schedule.due() == []


async def test_a_verify_from_before_the_token_changes_nothing(world: World, client: Client) -> None:
    found = future()
    looking = client.session.verify(lambda: found)
    await answers(client, "ann")
    found.set_result(None)
    await looking
    assert client.transport.code is None
    assert client.session.identity.user_id == 1


class TestExpiry:
    """A minute before it the client is warned; then the connection is closed."""

    async def test_the_ack_says_when(self, client: Client) -> None:
        (told,) = await answers(client, "ann for an hour")
        assert told["expiresIn"] == 3600

    async def test_a_client_that_does_not_renew_is_closed(
        self, client: Client, schedule: Schedule
    ) -> None:
        await answers(client, "ann for an hour")
        schedule.until(4539.0)
        assert client.transport.take() == []
        schedule.until(4540.0)
        assert client.transport.take() == [{"type": "expiring", "expiresIn": 60}]
        schedule.until(4599.0)
        assert not client.transport.final_frame
        schedule.until(4600.0)
        assert client.transport.code == CloseCode.UNAUTHORIZED
        assert is_error(client.transport.final_frame, "unauthorized")

    async def test_a_token_that_lasts_less_than_a_minute_is_told_of_at_once(
        self, client: Client, schedule: Schedule
    ) -> None:
        await answers(client, "ann for ten seconds")
        schedule.until(1000.0)
        assert client.transport.take() == [{"type": "expiring", "expiresIn": 10}]

    async def test_it_is_told_after_the_ack_though_that_waits_for_a_publish(
        self, world: World, schedule: Schedule
    ) -> None:
        """A client that renews its token takes what comes before the ack for the end of the token before."""
        client = connect(world, schedule, User(1))
        world.broker.answer = accepted = future()
        assert client.send(publish("news")) == []
        assert await answers(client, "ann for ten seconds") == []

        schedule.until(1001.0)
        accepted.set_result(1)
        await turn()

        told = [each.get("action", each["type"]) for each in client.transport.take()]
        assert told == ["publish", "authenticate", "expiring"]

    async def test_a_long_time_is_no_single_timer(self, client: Client, schedule: Schedule) -> None:
        await answers(client, "ann for a month")
        while not (frames := client.transport.take()):
            (call,) = schedule.due()
            assert call.at - schedule.now <= 86_400
            schedule.until(call.at)
        assert frames == [{"type": "expiring", "expiresIn": 60}]

    @pytest.mark.parametrize("warned", [True, False])
    async def test_a_renewed_token_takes_the_place_of_the_one_before(
        self, client: Client, schedule: Schedule, warned: bool
    ) -> None:
        await answers(client, "ann for ten seconds")
        if warned:
            schedule.until(1001.0)
        await answers(client, "ann")
        assert schedule.due() == []
        schedule.until(10_000.0)
        assert client.transport.code is None

    async def test_a_bad_token_does_not_put_it_off(
        self, client: Client, schedule: Schedule
    ) -> None:
        await answers(client, "ann for ten seconds")
        await answers(client, "bob")
        schedule.until(1010.0)
        assert client.transport.code == CloseCode.UNAUTHORIZED

    async def test_a_connection_that_is_gone_leaves_no_timer(
        self, client: Client, schedule: Schedule
    ) -> None:
        await answers(client, "ann for ten seconds")
        client.session.closed()
        assert schedule.due() == []
        client.session.expire_at(2000.0)
        assert schedule.due() == []

    def test_a_token_of_the_handshake_expires_as_well(
        self, client: Client, schedule: Schedule
    ) -> None:
        client.session.expire_at(1010.0)
        schedule.until(1010.0)
        assert [told["type"] for told in client.transport.take()] == ["expiring"]
        assert client.transport.code == CloseCode.UNAUTHORIZED


async def test_decisions_that_last_for_a_time_are_scheduled(
    world: World, schedule: Schedule
) -> None:
    class ForAMinute(OnlyUsers):
        def may_subscribe(self, identity: Identity, topic: str) -> Any:
            return Decision(True, recheck_after=60)

    client = world.connect(policy=ForAMinute(), scheduler=schedule)
    client.send(subscribe("news"))
    assert schedule.rechecks == [(client.session, "news", 60)]
    assert client.session.recheck_subscription("news") is None
    assert client.session.recheck_subscription("sport") is None
    assert schedule.rechecks == [(client.session, "news", 60)] * 2
    client.send(unsubscribe("news"))
    assert schedule.rechecks == []
