"""Grants: what a view has signed, and what becomes of it when a client brings it."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from time import time
from types import SimpleNamespace
from typing import Any, cast

import channels.auth
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore
from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.utils.functional import SimpleLazyObject

from dwsps_channels import apublish, grants, middleware
from dwsps_channels.auth import AuthMiddlewareStack
from dwsps_channels.consumers import PubSubConsumer
from dwsps_channels.core.identity import Identity, hash_session_key
from dwsps_channels.core.log import Log
from dwsps_channels.core.notice import Permission, Verify, publication_of
from dwsps_channels.core.policy import Decision
from dwsps_channels.core.revocations import Revocations
from dwsps_channels.grants import GrantChecker, make_grant
from dwsps_channels.middleware import CursorMiddleware
from dwsps_channels.policies import nonblocking
from dwsps_channels.protocol.errors import Forbidden, InvalidTopic
from dwsps_channels.server import runtime
from dwsps_channels.testing import PubSubCommunicator, Refused
from dwsps_channels.tokens import make_token
from tests.processes import wait_until_async

SESSION_KEY = "k3x0v6x1l0w5r3c4x7m8p9q2z1y6t5u4"
OTHER_SESSION_KEY = "a" * 32

FORGED = "the grant is forged: this server has not signed it"
ANOTHERS = "the grant is another user's, or from before a login or a change of password or rights"
NOBODYS = "the connection has neither a user nor a session, and the grant is for one"
ANOTHER_TOPIC = "the grant is for another topic"
EXPIRED = "the grant has expired"
REVOKED = "the grant was revoked"
MAYBE_REVOKED = "the grant may have been revoked"


def user(pk: int = 1, password: str = "hash of a password") -> User:
    return User(pk=pk, username=f"user {pk}", password=password)


def client(of: Any = None, session_key: str = "") -> Identity:
    session = hash_session_key(session_key) if session_key else ""
    return Identity("0123456789abcdef", of, session=session)


class AsksNobody:
    """A policy that must not be asked."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        raise AssertionError(f"asked about {topic}")

    def may_publish(self, identity: Identity, topic: str) -> bool:
        raise AssertionError(f"asked about {topic}")


class FixedPolicy(AsksNobody):
    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def may_subscribe(self, identity: Identity, topic: str) -> Any:
        self.asked.append(topic)
        return self.answer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time, in seconds since the epoch."""
    clock = SimpleNamespace(now=1_800_000_000.0)
    for module in (grants, middleware):
        monkeypatch.setattr(module, "time", lambda: clock.now)
    return clock


def checker(policy: Any = None, revocations: Revocations | None = None) -> GrantChecker:
    if revocations is None:
        revocations = Revocations(3600)
    return GrantChecker(policy or AsksNobody(), revocations)


def allowed_for(identity: Identity, topic: str, grant: str) -> float:
    """Return the seconds that the grant still lasts."""
    decision = checker().check(identity, topic, grant)
    assert isinstance(decision, Decision)
    assert decision.allowed
    assert decision.denied == ()
    assert decision.recheck_after is not None
    return decision.recheck_after


def refusal(identity: Identity, topic: str, grant: str) -> str:
    with pytest.raises(Forbidden) as caught:
        checker().check(identity, topic, grant)
    assert caught.value.what == f"subscribe to '{topic}'"
    return caught.value.why


# What a grant allows.


@pytest.mark.parametrize("topic", ["orders.42", "orders.42.items", "orders.42.items.7"])
def test_it_allows_its_topic_and_what_is_below(topic: str) -> None:
    allowed_for(client(user()), topic, make_grant("orders.42", user=user()))


@pytest.mark.parametrize("topic", ["orders", "orders.421", "orders.4", "orders.43", "news"])
def test_it_allows_neither_the_parent_nor_a_sibling(topic: str) -> None:
    assert refusal(client(user()), topic, make_grant("orders.42", user=user())) == ANOTHER_TOPIC


def test_a_visitors_is_for_the_session() -> None:
    grant = make_grant("orders.42", session_key=SESSION_KEY)

    allowed_for(client(AnonymousUser(), SESSION_KEY), "orders.42", grant)
    assert refusal(client(AnonymousUser(), OTHER_SESSION_KEY), "orders.42", grant) == ANOTHERS
    assert refusal(client(user()), "orders.42", grant) == ANOTHERS


def test_a_users_is_for_every_session_of_the_user() -> None:
    grant = make_grant("orders.42", user=user())

    allowed_for(client(user(), SESSION_KEY), "orders.42", grant)
    allowed_for(client(user(), OTHER_SESSION_KEY), "orders.42", grant)


def test_another_users_is_refused() -> None:
    grant = make_grant("orders.42", user=user(1))

    assert refusal(client(user(2)), "orders.42", grant) == ANOTHERS
    assert refusal(client(AnonymousUser(), SESSION_KEY), "orders.42", grant) == ANOTHERS


def test_one_who_is_not_logged_in_is_not_the_user() -> None:
    member = SimpleNamespace(pk="7b", is_authenticated=True)
    grant = make_grant("orders.42", user=member)

    known = SimpleNamespace(pk="7b", is_authenticated=False)
    assert refusal(client(known, SESSION_KEY), "orders.42", grant) == ANOTHERS


def test_a_user_with_the_number_of_a_session_is_another() -> None:
    grant = make_grant("orders.42", session_key="1")

    assert refusal(client(user(1)), "orders.42", grant) == ANOTHERS


def test_without_the_middleware_it_is_said_that_there_is_nobody() -> None:
    grant = make_grant("orders.42", user=user())

    assert refusal(client(None), "orders.42", grant) == NOBODYS


def test_a_change_of_the_password_ends_it() -> None:
    grant = make_grant("orders.42", user=user(password="old"))

    assert refusal(client(user(password="new")), "orders.42", grant) == ANOTHERS


@pytest.mark.parametrize("rank", ["is_staff", "is_superuser"])
def test_a_change_of_what_the_user_is_ends_it(rank: str) -> None:
    before, after = user(), user()
    setattr(before, rank, True)
    grant = make_grant("orders.42", user=before)

    allowed_for(client(before), "orders.42", grant)
    assert refusal(client(after), "orders.42", grant) == ANOTHERS


def test_a_user_of_the_project_without_an_auth_hash_has_grants() -> None:
    member = SimpleNamespace(pk="7b", is_authenticated=True)

    allowed_for(client(member), "orders.42", make_grant("orders.42", user=member))


# How long.


def test_it_lasts_as_long_as_the_setting_says(clock: SimpleNamespace) -> None:
    assert allowed_for(client(user()), "a", make_grant("a", user=user())) == 3600
    with override_settings(DWSPS={"GRANT_MAX_AGE": 60}):
        assert allowed_for(client(user()), "a", make_grant("a", user=user())) == 60


@pytest.mark.parametrize("expires", [90, 90.0, timedelta(seconds=90)])
def test_a_view_may_make_it_shorter(clock: SimpleNamespace, expires: Any) -> None:
    grant = make_grant("a", user=user(), expires=expires)

    clock.now += 30

    assert allowed_for(client(user()), "a", grant) == pytest.approx(60)


def test_a_lower_setting_ends_those_that_exist(clock: SimpleNamespace) -> None:
    grant = make_grant("a", user=user())
    clock.now += 100

    with override_settings(DWSPS={"GRANT_MAX_AGE": 60}):
        decision = checker(FixedPolicy(False)).check(client(user()), "a", grant)

    assert decision == Decision(False, EXPIRED)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (False, Decision(False, EXPIRED)),
        (Decision(False), Decision(False, EXPIRED)),
        (Decision(False, "closed today"), Decision(False, "closed today")),
        (True, True),
        (Decision(True, denied=("a.b",)), Decision(True, denied=("a.b",))),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_once_it_has_expired_the_policy_decides(
    clock: SimpleNamespace, answer: Any, expected: Any, is_async: bool
) -> None:
    async def later() -> Any:
        return answer

    grant = make_grant("a", user=user(), expires=10)
    clock.now += 10
    policy = FixedPolicy(later() if is_async else answer)

    decision = checker(policy).check(client(user()), "a.b", grant)

    if not isinstance(decision, bool | Decision):
        decision = await decision
    assert decision == expected
    assert policy.asked == ["a.b"]


# Revoked.


REVOKE: list[Callable[[Revocations, float], None]] = [
    lambda revocations, at: revocations.revoke(at),
    lambda revocations, at: revocations.revoke(at, user="1"),
    lambda revocations, at: revocations.revoke(at, user="1", topic="orders.42"),
    lambda revocations, at: revocations.revoke(at, user="1", topic="orders"),
    lambda revocations, at: revocations.revoke(at, user="1", topic="orders.42.items"),
    lambda revocations, at: revocations.revoke(at, topic="orders.42"),
    lambda revocations, at: revocations.revoke(at, session=hash_session_key(SESSION_KEY)),
]


@pytest.mark.parametrize("revoke", REVOKE)
def test_one_from_before_a_revocation_counts_no_longer(
    clock: SimpleNamespace, revoke: Callable[[Revocations, float], None]
) -> None:
    identity, revocations = client(user(), SESSION_KEY), Revocations(3600)
    before = make_grant("orders.42", user=user())
    clock.now += 1
    revoke(revocations, clock.now)
    clock.now += 1
    after = make_grant("orders.42", user=user())

    check = checker(FixedPolicy(False), revocations).check
    assert check(identity, "orders.42", before) == Decision(False, REVOKED)
    assert checker(FixedPolicy(True), revocations).check(identity, "orders.42", before) is True
    assert check(identity, "orders.42", after) == Decision(True, recheck_after=3600)


def test_what_is_anothers_is_not_revoked(clock: SimpleNamespace) -> None:
    revocations = Revocations(3600)
    grant = make_grant("orders.42", user=user(1))

    revocations.revoke(clock.now + 1, user="2")
    revocations.revoke(clock.now + 1, user="1", topic="orders.43")
    revocations.revoke(clock.now + 1, session=hash_session_key(OTHER_SESSION_KEY))

    decision = checker(revocations=revocations).check(
        client(user(1), SESSION_KEY), "orders.42", grant
    )
    assert isinstance(decision, Decision)
    assert decision.allowed


# Forged.


def test_each_character_of_it_counts() -> None:
    grant = make_grant("orders.42", user=user())

    for place, character in enumerate(grant):
        forged = grant[:place] + ("A" if character != "A" else "B") + grant[place + 1 :]
        # The last characters of base64 have bits that stand for nothing.
        if signing.b64_decode(forged.rpartition(":")[2].encode()) != signing.b64_decode(
            grant.rpartition(":")[2].encode()
        ):
            assert refusal(client(user()), "orders.42", forged) == FORGED
        assert refusal(client(user()), "orders.42", grant[:place]) == FORGED
    assert refusal(client(user()), "orders.42", grant + "A") == FORGED


@pytest.mark.parametrize(
    "grant",
    ["", ":", "::", "orders.42", "x" * 2048, "é", "\ud800", "\x00", "A" * 43, f":{'A' * 43}"],
)
def test_what_is_none_is_refused(grant: str) -> None:
    assert refusal(client(user()), "orders.42", grant) == FORGED


def test_what_was_signed_for_something_else_is_refused() -> None:
    """Signed with the same key, but not as a grant, or not with what a grant has."""
    payload = make_grant("orders.42", user=user()).rpartition(":")[0]

    assert refusal(client(user()), "orders.42", signing.Signer().sign(payload)) == FORGED
    signer = signing.Signer(salt="dwsps_channels.grants")
    for content in ("", "AAAA", signing.b64_encode(b"\x94\x01\x02\x03\x04").decode(), "!"):
        assert refusal(client(user()), "orders.42", signer.sign(content)) == FORGED


def test_another_servers_is_refused() -> None:
    with override_settings(SECRET_KEY="another server's"):
        grant = make_grant("orders.42", user=user())

    assert refusal(client(user()), "orders.42", grant) == FORGED


@pytest.mark.parametrize(
    ("reader", "identity"),
    [
        ({"user": user()}, client(user())),
        ({"session_key": SESSION_KEY}, client(AnonymousUser(), SESSION_KEY)),
    ],
)
def test_a_new_secret_key_leaves_those_valid_that_the_old_one_signed(
    reader: Any, identity: Identity
) -> None:
    with override_settings(SECRET_KEY="the old one"):
        grant = make_grant("orders.42", **reader)

    with override_settings(SECRET_KEY="the new one", SECRET_KEY_FALLBACKS=["the old one"]):
        allowed_for(identity, "orders.42", grant)


# Made.


def test_it_is_small_and_needs_no_escaping() -> None:
    grant = make_grant("orders.42", user=user())

    assert len(grant) < 110
    assert grant.isascii()
    assert grant.replace("-", "").replace("_", "").replace(":", "").isalnum()
    assert len(make_grant("o" * 90, user=user())) < 220


def test_it_does_not_tell_whose_it_is() -> None:
    for grant in (
        make_grant("orders.42", user=user(123456789, "a password")),
        make_grant("orders.42", session_key=SESSION_KEY),
    ):
        content = signing.b64_decode(grant.partition(":")[0].encode())
        assert b"123456789" not in content
        assert SESSION_KEY.encode() not in content
        assert hash_session_key(SESSION_KEY).encode() not in content


def test_the_longest_topic_fits() -> None:
    topic = "é" * 127

    allowed_for(client(user()), topic, make_grant(topic, user=user()))


@pytest.mark.parametrize("topic", ["", "orders.", "or ders", "o" * 256, "$dwsps.notice"])
def test_a_topic_that_is_none_is_refused(topic: str) -> None:
    with pytest.raises(InvalidTopic):
        make_grant(topic, user=user())


@pytest.mark.parametrize(
    "reader",
    [
        {},
        {"user": user(), "session_key": SESSION_KEY},
        {"user": user(), "request": HttpRequest()},
    ],
)
def test_it_is_for_one_reader(reader: Any) -> None:
    with pytest.raises(ValueError, match="give one"):
        make_grant("orders.42", **reader)


@pytest.mark.parametrize("nobody", [AnonymousUser(), User(username="not saved"), object()])
def test_a_user_who_is_nobody_has_none(nobody: Any) -> None:
    with pytest.raises(ValueError, match="one who is logged in"):
        make_grant("orders.42", user=nobody)


@pytest.mark.django_db
def test_a_request_stands_for_its_user_or_its_session() -> None:
    of_user, of_visitor = HttpRequest(), HttpRequest()
    of_user.user = user()
    of_visitor.session = SessionStore()

    for_user, for_visitor = (
        make_grant("orders.42", request=request) for request in (of_user, of_visitor)
    )

    allowed_for(client(user()), "orders.42", for_user)
    session_key = of_visitor.session.session_key
    assert session_key
    allowed_for(client(AnonymousUser(), session_key), "orders.42", for_visitor)
    assert refusal(client(user()), "orders.42", for_visitor) == ANOTHERS


def test_what_was_revoked_while_the_view_ran_does_not_count(clock: SimpleNamespace) -> None:
    revocations = Revocations(3600)

    def view(request: HttpRequest) -> HttpResponse:
        clock.now += 1
        revocations.revoke(clock.now, user="1")
        clock.now += 1
        return HttpResponse(make_grant("orders.42", request=request))

    request = HttpRequest()
    request.user = user()
    grant = cast(HttpResponse, CursorMiddleware(view)(request)).content.decode()

    decision = checker(FixedPolicy(False), revocations).check(client(user()), "orders.42", grant)
    assert decision == Decision(False, REVOKED)


def test_an_empty_session_key_is_none() -> None:
    with pytest.raises(ValueError, match="session key is empty"):
        make_grant("orders.42", session_key="")


@pytest.mark.parametrize("expires", [0, -1, 3601, timedelta(days=1), float("nan")])
def test_an_expiry_has_its_bounds(expires: Any) -> None:
    with pytest.raises(ValueError, match="GRANT_MAX_AGE"):
        make_grant("orders.42", user=user(), expires=expires)


# A user who is not loaded yet: looking is a query.


async def test_a_user_who_is_not_loaded_yet_is_looked_at_in_a_thread() -> None:

    loaded_in: list[threading.Thread] = []

    def load() -> User:
        loaded_in.append(threading.current_thread())
        return user()

    decision = checker().check(
        client(SimpleLazyObject(load)), "orders.42", make_grant("orders.42", user=user())
    )

    assert not isinstance(decision, bool | Decision)
    decision = await decision
    assert isinstance(decision, Decision)
    assert decision.allowed
    assert threading.current_thread() not in loaded_in


# Brought to the server, with real sessions.


class Nobody:
    """Allows nobody anything."""

    @nonblocking
    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        return False

    @nonblocking
    def may_publish(self, identity: Identity, topic: str) -> bool:
        return False


@pytest.fixture
def strict() -> Iterator[None]:
    with override_settings(DWSPS={"POLICY": "tests.test_grants.Nobody"}):
        yield


def communicator(session_key: str = "", stack: Any = AuthMiddlewareStack) -> PubSubCommunicator:
    headers = [(b"cookie", f"sessionid={session_key}".encode())] if session_key else []
    return PubSubCommunicator(stack(PubSubConsumer.as_asgi()), headers=headers)


def log_in(user: User) -> str:
    browser = Client()
    browser.force_login(user)
    key = browser.session.session_key
    assert key
    return key


@sync_to_async
def ada_and_her_session() -> tuple[User, str]:
    ada = User.objects.create_user("ada")
    return ada, log_in(ada)


async def reason_of(refused: Awaitable[object]) -> str:
    with pytest.raises(Refused) as caught:
        await refused
    assert caught.value.code == "forbidden"
    return caught.value.reason.rpartition(": ")[2]


@pytest.mark.parametrize("stack", [AuthMiddlewareStack, channels.auth.AuthMiddlewareStack])
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("strict")
async def test_a_client_subscribes_with_a_grant_and_not_without(stack: Any) -> None:
    ada, key = await ada_and_her_session()
    grant = make_grant("orders.42", user=ada)

    async with communicator(key, stack) as page:
        assert "orders.42" in await reason_of(page.subscribe("orders.42"))
        await page.subscribe("orders.42", grant=grant)
        assert await reason_of(page.subscribe("orders", grant=grant)) == ANOTHER_TOPIC
        assert "publish" in await reason_of(page.publish("orders.42", "hello"))
        await apublish("orders.42.items", "sold")
        await apublish("orders.43", "not for ada")

        assert (await page.receive())["message"] == "sold"
        assert await page.received_nothing()


@pytest.mark.parametrize("stack", [AuthMiddlewareStack, channels.auth.AuthMiddlewareStack])
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("strict")
async def test_a_visitor_subscribes_with_the_session(stack: Any) -> None:
    mine, other = SessionStore(), SessionStore()
    await mine.acreate()
    await other.acreate()
    assert mine.session_key
    assert other.session_key
    grant = make_grant("orders.42", session_key=mine.session_key)

    async with communicator(mine.session_key, stack) as page:
        await page.subscribe("orders.42", grant=grant)
    async with communicator(other.session_key, stack) as page:
        assert await reason_of(page.subscribe("orders.42", grant=grant)) == ANOTHERS
    async with communicator(stack=stack) as page:
        assert "neither" in await reason_of(page.subscribe("orders.42", grant=grant))


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("strict")
async def test_what_was_missed_is_replayed_because_of_a_grant() -> None:
    ada, key = await ada_and_her_session()
    topics = ("orders.42", "orders.43", "orders.44")
    grants = {
        "orders.42": make_grant("orders.42", user=ada),
        "orders.43": make_grant("orders.44", user=ada),
    }
    async with communicator() as away:
        await away.unsubscribe("orders")
        cursor = away.cursor
    for topic in topics:
        await apublish(topic, f"in {topic}")

    async with communicator(key) as page:
        outcomes = await page.resume(topics, cursor, grants=grants)
        assert outcomes["orders.42"] is True
        assert [getattr(outcomes[topic], "code", None) for topic in topics[1:]] == ["forbidden"] * 2
        assert (await page.receive())["message"] == "in orders.42"
        assert await page.received_nothing()
    for asked in ({"since": cursor}, {"last": 10}):
        async with communicator(key) as page:
            await page.subscribe("orders.42", grant=grants["orders.42"], **asked)
            assert (await page.receive())["message"] == "in orders.42"
            assert await page.received_nothing()
            wrong = page.subscribe("orders.43", grant=grants["orders.43"], **asked)
            assert await reason_of(wrong) == ANOTHER_TOPIC


@pytest.mark.parametrize("grant", ["", 7, None, ["a"], {"a": "b"}, "x" * 3000])
@pytest.mark.usefixtures("strict")
async def test_what_is_no_text_is_no_message(grant: Any) -> None:
    async with communicator() as page:
        await page.send_json_to({"type": "subscribe", "topic": "a", "grant": grant})

        answer = await page.receive_json_from()

        assert answer["code"] == "invalid_message"
        assert answer["reason"].startswith("'grant' must be a string")


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("strict")
async def test_grants_from_before_a_notice_are_void() -> None:
    ada, key = await ada_and_her_session()
    grant = make_grant("orders.42", user=ada)
    server = await runtime.obtain()

    server.node.notify(Permission(user=str(ada.pk), topic="orders"))

    async with communicator(key) as page:
        assert await reason_of(page.subscribe("orders.42", grant=grant)) == REVOKED


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("strict")
async def test_grants_are_void_if_their_revocation_may_have_been_missed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ada, key = await ada_and_her_session()
    before = make_grant("orders.42", user=ada)
    server = await runtime.obtain()
    async with communicator(key) as page:
        await page.subscribe("orders.42", grant=before)
        server.node.begin(Log(server.node.epoch))
        await page.subscribe("orders.42", grant=before)

        server.node.begin(Log("another"))

        for _ in range(2):
            assert await reason_of(page.subscribe("orders.42", grant=before)) == MAYBE_REVOKED
        [line] = [each for each in caplog.messages if "grants from before a gap" in each]
        assert "the policy is asked instead" in line
        async with asyncio.timeout(60):
            while "orders.42" not in page.ended:
                await page.unsubscribe("a")
                await asyncio.sleep(0.01)
        # The clock of grants counts milliseconds.
        missed_at = time()
        await wait_until_async(lambda: time() > missed_at + 0.001)
        await page.subscribe("orders.42", grant=make_grant("orders.42", user=ada))


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("strict")
async def test_grants_from_before_the_oldest_revocation_that_the_log_keeps_are_void(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "MAX_NOTICES", 2)
    ada, key = await ada_and_her_session()
    before = make_grant("orders.42", user=ada)
    server = await runtime.obtain()
    notices = [(offset, publication_of(Verify(f"not {ada.pk}"))) for offset in (1, 2)]
    async with communicator(key) as page:
        server.node.begin(Log(server.node.epoch, 1, 0, notices[:1]))
        await page.subscribe("orders.42", grant=before)

        server.node.begin(Log(server.node.epoch, 2, 0, notices))

        assert await reason_of(page.subscribe("orders.42", grant=before)) == REVOKED


@pytest.mark.django_db(transaction=True)
@override_settings(
    DWSPS={
        "POLICY": "tests.test_grants.Nobody",
        "AUTHENTICATOR": "dwsps_channels.tokens.SignedToken",
    }
)
async def test_a_login_by_token_adds_the_grants_of_the_user_to_those_of_the_session() -> None:
    """An app without cookies has those of its user; a page keeps those that it had as a visitor."""
    ada = await User.objects.acreate(username="ada")
    session = SessionStore()
    await session.acreate()
    assert session.session_key
    of_ada = make_grant("orders.1", user=ada)
    of_visitor = make_grant("orders.2", session_key=session.session_key)

    async with communicator(session.session_key) as page:
        assert await reason_of(page.subscribe("orders.1", grant=of_ada)) == ANOTHERS
        await page.subscribe("orders.2", grant=of_visitor)
        token = await sync_to_async(make_token)(ada, expires=timedelta(hours=1))
        await page.authenticate(token)

        await page.subscribe("orders.1", grant=of_ada)
        await apublish("orders.2", "still mine")
        assert (await page.receive())["message"] == "still mine"
    async with communicator() as app:
        assert await reason_of(app.subscribe("orders.2", grant=of_visitor)) == NOBODYS
        await app.authenticate(token)
        await app.subscribe("orders.1", grant=of_ada)
        assert await reason_of(app.subscribe("orders.2", grant=of_visitor)) == ANOTHERS
