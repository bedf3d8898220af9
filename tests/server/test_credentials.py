"""Credentials: what a connection presents, and what it is from then on. Attacks on the handshake and on the frame."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from time import time
from types import SimpleNamespace
from typing import Any
from unittest import mock

import channels.auth
import pytest
from asgiref.sync import sync_to_async
from channels.db import database_sync_to_async
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client, override_settings
from django.utils.functional import SimpleLazyObject

import dwsps_channels.auth
from dwsps_channels.access import adisconnect
from dwsps_channels.connections.throttle import FREE, KNOWN_INTERVAL, Throttle, TooManyFailures
from dwsps_channels.consumers import PubSubConsumer
from dwsps_channels.models import Peer, server_id
from dwsps_channels.peering.inbound.worker_credentials import Purpose, sign_worker
from dwsps_channels.policies import Identity
from dwsps_channels.server import credentials, runtime
from dwsps_channels.server.credentials import FREE_TOKENS, ConnectionAuthenticator
from dwsps_channels.testing import Closed, PubSubCommunicator, Refused
from dwsps_channels.tokens import Authentication, make_token, places
from tests.clock import Clock
from tests.tokens import authenticators

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = "the-secret-of-this-peer"
SIGNED = {
    "AUTHENTICATOR": "dwsps_channels.tokens.SignedToken",
    "POLICY": "tests.server.test_credentials.OwnTopics",
}
BY_NAME = SIGNED | {"AUTHENTICATOR": "tests.tokens.authenticators.by_name"}


class OwnTopics:
    """Users may use the topic of their name."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        return identity.is_authenticated and identity.user.username == topic

    may_publish = may_subscribe


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {token}".encode())]


def by_url(token: str) -> str:
    return f"/ws/pubsub/?token={token}"


async def user(name: str = "ann", **values: Any) -> User:
    return await sync_to_async(User.objects.create_user)(name, password=name, **values)


async def token_of(each: User, **arguments: Any) -> str:
    return await sync_to_async(make_token)(each, **arguments)


async def peer(secret: str = SECRET) -> Peer:
    return await Peer.objects.acreate(name="far", url="ws://far.example/", secret=secret)


async def is_peer(**connection: Any) -> bool:
    """Return whether such a connection may forward; False also if it is refused."""
    try:
        async with PubSubCommunicator(**connection) as link:
            await link.send_json_to(
                {"type": "publish", "topic": "news", "message": 1, "fromPeerServer": True}
            )
            frames = [await link.receive_json_from(5)]
            if frames[0]["type"] == "hello":
                frames.append(await link.receive_json_from(5))
            return bool(frames[-1]["type"] == "ack")
    except Closed:
        return False


async def is_user(name: str = "ann", **connection: Any) -> bool:
    """Return whether such a connection is that of the user; False also if it is refused."""
    try:
        async with PubSubCommunicator(**connection) as client:
            await client.send_json_to({"type": "subscribe", "topic": name})
            return bool((await client.receive_json_from(5))["type"] == "ack")
    except Closed:
        return False


async def authenticate(client: PubSubCommunicator, token: str, **fields: Any) -> Any:
    await client.send_json_to({"type": "authenticate", "token": token, **fields})
    return await client.receive_json_from(5)


async def status_of(**connection: Any) -> int:
    """Return the HTTP status with which such a handshake is refused."""
    communicator = PubSubCommunicator(**connection)
    communicator.scope["extensions"] = {"websocket.http.response": {}}
    await communicator.send_input({"type": "websocket.connect"})
    status: int = (await communicator.receive_output(5))["status"]
    await communicator.receive_output(5)
    await communicator.wait(5)
    return status


@pytest.fixture
def signed_tokens() -> Iterator[None]:
    """The server takes tokens of ``make_token``."""
    with override_settings(DWSPS=SIGNED):
        yield


@pytest.fixture
def tokens_by_name() -> Iterator[None]:
    """The server takes opaque tokens: a user's name."""
    with override_settings(DWSPS=BY_NAME):
        yield


@pytest.fixture
def clock() -> Iterator[Clock]:
    """The time of throttles, which passes while somebody waits."""
    clock = Clock()

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0)
        clock.now += seconds

    with mock.patch.object(credentials, "Throttle", partial(Throttle, clock, sleep)):
        yield clock


@asynccontextmanager
async def one_runtime() -> Any:
    """Keep the runtime between connections, as it remembers failures."""
    async with PubSubCommunicator():
        yield await runtime.obtain()


@pytest.mark.usefixtures("signed_tokens")
class TestHandshake:
    async def test_a_token_tells_the_user_in_the_header_and_in_the_url(self) -> None:
        token = await token_of(await user())
        assert await is_user(headers=bearer(token))
        assert await is_user(path=by_url(token))
        assert not await is_user()

    async def test_it_counts_beside_a_cookies_user(self) -> None:
        ann, bob = await user("ann"), await user("bob")
        token = await token_of(ann)
        assert await is_user("ann", user=bob, headers=bearer(token))
        assert not await is_user("bob", user=bob, headers=bearer(token))

    @pytest.mark.parametrize(
        "stack", [dwsps_channels.auth.AuthMiddlewareStack, channels.auth.AuthMiddlewareStack]
    )
    async def test_it_counts_behind_either_middleware(self, stack: Any) -> None:
        application = stack(PubSubConsumer.as_asgi())
        ann, bob = await user("ann"), await user("bob")
        browser = Client()
        await sync_to_async(browser.force_login)(bob)
        cookie = (b"cookie", f"sessionid={browser.cookies['sessionid'].value}".encode())
        token = bearer(await token_of(ann))
        assert await is_user("bob", application=application, headers=[cookie])
        assert await is_user("ann", application=application, headers=[cookie, *token])
        assert await is_user("ann", application=application, headers=token)
        assert not await is_user(
            "bob", application=application, headers=[cookie, *bearer("dwspst_x")]
        )

    async def test_a_false_one_is_refused_beside_a_cookies_user(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        bob = await user("bob")
        assert not await is_user("bob", user=bob, headers=bearer("dwspst_x"))
        assert await is_user("bob", user=bob)
        assert "refused: not a valid token" in caplog.text

    async def test_a_token_that_needs_no_database_counts_while_that_is_away(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away() -> frozenset[int]:
            raise OperationalError("gone away")

        monkeypatch.setattr(credentials, "LENGTHS_MAX_AGE", 0.0)
        without_query = "tests.tokens.authenticators.by_name_without_query"
        with override_settings(DWSPS=BY_NAME | {"AUTHENTICATOR": without_query}):
            async with one_runtime():
                assert await is_user(headers=bearer("ann"))
                monkeypatch.setattr(credentials, "secret_lengths", away)
                assert await is_user(headers=bearer("ann"))
            # A process that has never known the secrets: this may be one, and not for the authenticator to see.
            async with one_runtime() as server:
                server.credentials._lengths = None
                assert await status_of(headers=bearer("ann")) == 503

    async def test_a_user_does_not_become_a_peer(self) -> None:
        await peer()
        assert not await is_peer(user=await user(), headers=bearer(SECRET))

    @pytest.mark.parametrize(
        "token",
        ["dwspst_", "dwspst_x", "eyJhbGciOiJub25lIn0.e30.", "", "x" * 10_000, "é", "%ff%00"],
        ids=range(7),
    )
    async def test_nonsense_is_refused_either_way(self, token: str) -> None:
        with pytest.raises(Closed) as closed:
            async with PubSubCommunicator(path=by_url(token)):
                pass
        assert closed.value.code == 4003  # a refusal by HTTP, with 403
        with pytest.raises(Closed):
            async with PubSubCommunicator(headers=bearer(token)):
                pass

    async def test_no_log_line_and_no_repr_has_it(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "dwsps_channels")
        ann = await user()
        token = await token_of(ann)
        for bad in (token[:-1] + "_", "opaque-false-token"):
            assert not await is_user(headers=bearer(bad))
            assert not await is_user(path=by_url(bad))
            assert bad not in caplog.text
        async with PubSubCommunicator(path=by_url(token)) as client:
            assert (await authenticate(client, "dwspst_bad"))["type"] == "error"
            assert (await authenticate(client, token))["type"] == "ack"
            [session] = (await runtime.obtain()).sessions
            assert token not in repr(session.identity)
        assert token not in caplog.text
        assert "dwspst_bad" not in caplog.text

    async def test_a_worker_is_still_one(self) -> None:
        token = sign_worker(await database_sync_to_async(server_id)(), Purpose.FORWARD)
        async with PubSubCommunicator(headers=bearer(token)) as worker:
            await worker.send_json_to(
                {"type": "feed", "cursor": "", "at": 2.0**40, "messages": 1, "size": 1}
            )
            assert (await worker.receive_json_from(5))["type"] == "ack"

    async def test_without_an_authenticator_a_token_of_ours_is_refused_with_the_reason(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        token = await token_of(await user())
        with override_settings(DWSPS={}):
            assert not await is_user(headers=bearer(token))
        assert "refused: a token, but DWSPS['AUTHENTICATOR'] is not set" in caplog.text

    @pytest.mark.parametrize("dwsps", [{}, SIGNED])
    @pytest.mark.parametrize("form", ["dwspst_{}", "worker.{}", "the-same-false-credential"])
    async def test_a_flood_of_what_costs_little_fills_no_log(
        self, dwsps: dict[str, Any], form: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with override_settings(DWSPS=dwsps):
            async with one_runtime():
                for number in range(10):
                    assert not await is_user(headers=bearer(form.format(number)))
        lines = [each for each in caplog.records if "refused: " in each.getMessage()]
        assert 1 <= len([each for each in lines if each.levelno >= logging.WARNING]) <= 2

    async def test_an_authenticator_that_fails_is_answered_with_503(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("failing", "failing_async", "quoted_by_database", "without_database"):
            path = f"tests.tokens.authenticators.{name}"
            with override_settings(DWSPS={"AUTHENTICATOR": path}):
                assert await status_of(headers=bearer("some-token")) == 503
        assert "the authenticator failed" in caplog.text
        assert "some-token" not in caplog.text


# What anybody can write: the form of a JSON Web Token, without a signature.
GARBAGE = "eyJhbGciOiJub25lIn0.e30."


class TestFlood:
    """Garbage in the form of signed tokens, which is not throttled, at an authenticator that is slow about it."""

    @pytest.fixture(autouse=True)
    def slow_about_garbage(self) -> Iterator[None]:
        by_name = authenticators.by_name_async

        async def look_up(token: str, scope: Any) -> Any:
            return await (asyncio.Event().wait() if token == GARBAGE else by_name(token, scope))

        path = "tests.tokens.authenticators.by_name_async"
        with mock.patch(path, look_up), override_settings(DWSPS={"AUTHENTICATOR": path}):
            yield

    async def test_it_keeps_no_other_address_waiting(self) -> None:
        ann = await user()
        async with one_runtime() as server:
            flood = [
                asyncio.create_task(
                    ConnectionAuthenticator(server.credentials, {}, "2001:db8::1")(GARBAGE)
                )
                for _ in range(100)
            ]
            await asyncio.sleep(0)
            for address in ("192.0.2.1", "2001:db8:0:1::1"):
                honest = ConnectionAuthenticator(server.credentials, {}, address)
                assert await honest("ann") == Authentication(ann)
            for each in flood:
                each.cancel()
            await asyncio.wait(flood)

    async def test_whoever_sends_too_many_at_a_time_is_told_so(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(places, "MAX_WAITING", 1)
        async with one_runtime() as server, PubSubCommunicator() as client:
            held = asyncio.create_task(ConnectionAuthenticator(server.credentials, {}, "")(GARBAGE))
            await asyncio.sleep(0)
            answer = await authenticate(client, GARBAGE)
            assert (answer["code"], answer["retryable"]) == ("unavailable", True)
            assert answer["reason"] == "too many tokens from this address at a time"
            assert await status_of(headers=bearer(GARBAGE)) == 429
            held.cancel()
            await asyncio.wait((held,))


@pytest.mark.usefixtures("tokens_by_name")
class TestPeers:
    """Opaque tokens, which may be secrets by their form."""

    async def test_secrets_and_tokens_are_told_apart(self) -> None:
        await peer()
        await user()
        assert await is_peer(headers=bearer(SECRET))
        assert await is_peer(path=by_url(SECRET))
        assert await is_user(headers=bearer("ann"))
        assert not await is_peer(headers=bearer("ann"))

    async def test_a_token_as_long_as_a_secret_is_a_token(self) -> None:
        await peer()
        name = "a" * len(SECRET)
        await user(name)
        assert await is_user(name, headers=bearer(name))

    async def test_the_authenticator_does_not_see_a_peers_secret(self) -> None:
        """Even one that is out of order keeps no peer away."""
        await peer()
        with override_settings(DWSPS={"AUTHENTICATOR": "tests.tokens.authenticators.failing"}):
            assert await is_peer(headers=bearer(SECRET))

    async def test_the_log_says_as_what_a_credential_was_tried(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "dwsps_channels")
        far = await peer()
        for token, reason in (
            ("dwspst_x", "not a valid token"),
            ("dwspst_".ljust(len(SECRET), "x"), "not a valid token"),
            ("short", "not a valid token"),
            (
                SECRET[:-1] + "x",
                "neither a valid token nor the secret of a peer: wrong secret",
            ),
        ):
            caplog.clear()
            assert not await is_user(headers=bearer(token))
            assert f"refused: {reason}" in caplog.text
        far.enabled = False
        await far.asave()
        assert not await is_peer(headers=bearer(SECRET))
        assert "peer 'far' is disabled" in caplog.text

    async def test_false_tokens_delay_no_peer(self, clock: Clock) -> None:
        await peer()
        async with one_runtime():
            began = clock.now
            for number in range(FREE_TOKENS + 5):
                assert not await is_user(headers=bearer(f"dwspst_{number}"))
                assert not await is_user(headers=bearer(f"opaque-{number}"))
            assert clock.now > began  # the opaque ones wait
            began = clock.now
            assert await is_peer(headers=bearer(SECRET))
            assert clock.now == began

    async def test_false_secrets_delay_no_client_with_a_token(self, clock: Clock) -> None:
        await peer()
        await user()
        async with one_runtime():
            began = clock.now
            for number in range(FREE + 3):
                assert not await is_peer(headers=bearer(f"{SECRET[:-1]}{number}"))
            assert clock.now > began
            began = clock.now
            assert await is_user(headers=bearer("ann"))
            assert clock.now == began

    async def test_signed_tokens_wait_for_nobody(self, clock: Clock) -> None:
        with override_settings(DWSPS=SIGNED):
            token = await token_of(await user())
            await peer()
            async with one_runtime():
                for number in range(FREE_TOKENS + 5):
                    await is_user(headers=bearer(f"opaque-{number}"))
                    await is_user(headers=bearer(f"dwspst_{number}"))
                for number in range(FREE + 3):
                    await is_peer(headers=bearer(f"{SECRET[:-1]}{number}"))
                began = clock.now
                assert await is_user(headers=bearer(token))
                assert clock.now == began

    async def test_a_client_that_repeats_an_expired_token_delays_nobody(
        self, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        await user()
        async with one_runtime():
            for _ in range(3 * FREE_TOKENS):
                assert not await is_user(headers=bearer("expired"))
                clock.now += KNOWN_INTERVAL / 2
            began = clock.now
            assert await is_user(headers=bearer("ann"))
            assert clock.now == began
        assert "a credential that is not checked again" not in caplog.text


@pytest.mark.usefixtures("signed_tokens")
class TestFrame:
    async def test_a_client_tells_who_it_is_when_it_is_connected(self) -> None:
        token = await token_of(await user(), expires=timedelta(minutes=10))
        async with PubSubCommunicator() as client:
            await client.send_json_to({"type": "subscribe", "topic": "ann"})
            assert (await client.receive_json_from(5))["code"] == "forbidden"
            ack = await authenticate(client, token, id=7)
            assert (ack["type"], ack["action"], ack["id"]) == ("ack", "authenticate", 7)
            assert 590 <= ack["expiresIn"] <= 600
            await client.subscribe("ann")

    async def test_a_bad_token_leaves_the_connection_as_it_was(self) -> None:
        ann = await user()
        async with PubSubCommunicator(user=ann) as client:
            await client.subscribe("ann")
            answer = await authenticate(client, "dwspst_x", id=1)
            assert (answer["code"], answer["retryable"]) == ("unauthorized", False)
            await client.publish("ann", 1)
            assert (await client.receive())["message"] == 1

    async def test_the_token_of_another_user_is_refused(self) -> None:
        ann, bob = await user("ann"), await user("bob")
        for connection in ({"headers": bearer(await token_of(ann))}, {"user": ann}):
            async with PubSubCommunicator(**connection) as client:
                answer = await authenticate(client, await token_of(bob))
                assert answer["code"] == "unauthorized"
                await client.subscribe("ann")

    async def test_without_an_authenticator_none_is_taken(self) -> None:
        token = await token_of(await user())
        with override_settings(DWSPS={}):
            async with PubSubCommunicator() as client:
                assert (await authenticate(client, token))["code"] == "unauthorized"

    async def test_an_authenticator_that_fails_makes_it_unavailable(self) -> None:
        for name in ("failing", "failing_async", "without_database"):
            path = f"tests.tokens.authenticators.{name}"
            with override_settings(DWSPS={"AUTHENTICATOR": path}):
                async with PubSubCommunicator() as client:
                    answer = await authenticate(client, "some-token")
                    assert (answer["code"], answer["retryable"]) == ("unavailable", True)
                    assert "some-token" not in answer["reason"]

    async def test_the_authenticator_knows_the_connection(self) -> None:
        await user()
        dwsps = SIGNED | {"AUTHENTICATOR": "tests.tokens.authenticators.by_path"}
        with override_settings(DWSPS=dwsps):
            async with PubSubCommunicator(path="/ws/ann/") as client:
                await authenticate(client, "token")
                await client.subscribe("ann")

    async def test_guessing_is_slowed_down_across_connections(self, clock: Clock) -> None:
        with override_settings(DWSPS=BY_NAME):
            async with one_runtime() as server:
                began = clock.now
                for number in range(FREE_TOKENS + 1):
                    each = ConnectionAuthenticator(server.credentials, {}, "192.0.2.1")
                    assert clock.now == began
                    assert await each(f"guess-{number}") is None
                assert clock.now > began

    async def test_too_many_guesses_are_not_looked_at(self) -> None:
        with override_settings(DWSPS=BY_NAME):
            async with one_runtime() as server:
                with mock.patch.object(
                    server.credentials._token_throttle,
                    "turn",
                    side_effect=TooManyFailures(is_first=True),
                ):
                    async with PubSubCommunicator() as client:
                        answer = await authenticate(client, "guess")
        assert (answer["code"], answer["retryable"]) == ("unavailable", True)
        assert answer["reason"] == "too many false credentials from this address"

    async def test_a_user_whom_nobody_has_loaded_is_neither_looked_at_nor_replaced(self) -> None:
        ann = await user()
        loaded: list[User] = []

        def load() -> User:
            loaded.append(ann)
            return ann

        lazy: Any = SimpleLazyObject(load)
        dwsps = {"AUTHENTICATOR": "tests.tokens.authenticators.by_name_async"}
        with override_settings(DWSPS=dwsps):
            async with PubSubCommunicator(user=lazy) as client:
                with pytest.raises(Refused) as refused:
                    await client.authenticate(ann.username)
                assert refused.value.code == "unauthorized"
                assert "whose connection" in refused.value.reason
                assert loaded == []
                # Once the policy, for instance, has looked at it, it is the same user.
                assert lazy.pk == ann.pk
                await client.authenticate(ann.username)

    async def test_a_connection_asks_one_question_at_a_time(self) -> None:
        active, most = 0, 0
        ann = await user()

        async def slowly(token: str, scope: Any) -> User:
            nonlocal active, most
            active += 1
            most = max(most, active)
            await asyncio.sleep(0)
            active -= 1
            return ann

        with mock.patch("tests.tokens.authenticators.by_name_async", slowly):
            dwsps = {"AUTHENTICATOR": "tests.tokens.authenticators.by_name_async"}
            with override_settings(DWSPS=dwsps):
                async with PubSubCommunicator() as client:
                    for number in range(50):
                        await client.send_json_to(
                            {"type": "authenticate", "token": f"dwspst_{number}", "id": number}
                        )
                    answers = [await client.receive_json_from(5) for _ in range(50)]
        assert [answer["id"] for answer in answers] == list(range(50))
        assert {answer["type"] for answer in answers} == {"ack"}
        assert most == 1

    async def test_a_connection_that_goes_on_sending_false_ones_waits_for_each_answer(self) -> None:
        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)

        token = await token_of(await user())
        async with one_runtime() as server:
            each = ConnectionAuthenticator(server.credentials, {}, "192.0.2.1", sleep=sleep)
            for _ in range(FREE + 5):
                assert await each("dwspst_x") is None
            assert pauses == [0.25, 0.5, 1.0, 2.0, 2.0]
            assert await each(token) is not None
            assert await each("dwspst_x") is None
            assert len(pauses) == 6

    async def test_it_counts_against_the_rate(self) -> None:
        with override_settings(DWSPS=SIGNED | {"RATE_LIMIT": 0.1, "RATE_BURST": 2}):
            async with PubSubCommunicator() as client:
                codes = [(await authenticate(client, "dwspst_x"))["code"] for _ in range(4)]
        assert codes == ["unauthorized"] * 2 + ["rate_limited"] * 2


async def is_closed(client: PubSubCommunicator) -> int:
    """Wait until the server closes the connection; return the code."""
    try:
        while True:
            await client.receive()
    except Closed as closed:
        return closed.code


@pytest.mark.usefixtures("signed_tokens")
class TestRevocation:
    """A connection ends with the token that it has come with, or has sent."""

    @pytest.mark.parametrize("by_frame", [False, True])
    @pytest.mark.parametrize("change", ["password", "is_active", "deletion"])
    async def test_a_change_of_its_user(self, by_frame: bool, change: str) -> None:
        ann = await user()
        token = await token_of(ann)
        async with PubSubCommunicator(headers=[] if by_frame else bearer(token)) as client:
            if by_frame:
                assert (await authenticate(client, token))["type"] == "ack"
            await client.subscribe("ann")
            if change == "password":
                ann.set_password("another")
                await ann.asave()
            elif change == "is_active":
                ann.is_active = False
                await ann.asave()
            else:
                await ann.adelete()
            assert await is_closed(client) == 4001
        assert not await is_user(headers=bearer(token))

    async def test_a_change_of_another_user_does_not(self) -> None:
        ann, bob = await user("ann"), await user("bob")
        async with PubSubCommunicator(headers=bearer(await token_of(ann))) as client:
            await client.subscribe("ann")
            bob.set_password("another")
            await bob.asave()
            await client.publish("ann", 1)
            assert (await client.receive())["message"] == 1

    async def test_its_time(self) -> None:
        ann = await user()

        async def lasting_a_moment(token: str, scope: Any) -> Authentication:
            return Authentication(ann, time() + 2.5)

        with (
            mock.patch("tests.tokens.authenticators.by_name_async", lasting_a_moment),
            override_settings(
                DWSPS=SIGNED | {"AUTHENTICATOR": "tests.tokens.authenticators.by_name_async"}
            ),
        ):
            async with PubSubCommunicator(headers=bearer("token")) as client:
                assert await is_closed(client) == 4001
                assert client.expires_in in range(3)

    async def test_a_user_that_is_no_row_stays_until_it_is_disconnected(self) -> None:
        ann = await user()

        async def without_a_query(token: str, scope: Any) -> Any:
            return SimpleNamespace(pk=ann.pk, username="ann", is_authenticated=True, is_active=True)

        with (
            mock.patch("tests.tokens.authenticators.by_name_async", without_a_query),
            override_settings(
                DWSPS=SIGNED | {"AUTHENTICATOR": "tests.tokens.authenticators.by_name_async"}
            ),
        ):
            async with PubSubCommunicator(headers=bearer("token")) as client:
                ann.is_active = False
                await ann.asave()
                assert await client.received_nothing()
                await adisconnect(user=ann)
                assert await is_closed(client) == 4001


class TestLogoutMeanwhile:
    """A project that keeps its tokens deletes one, then disconnects the user, while the token is being looked up."""

    @pytest.fixture
    def tokens(self) -> Iterator[set[str]]:
        """The tokens of the project's one user."""
        with override_settings(
            DWSPS={"AUTHENTICATOR": "tests.tokens.authenticators.by_name_async"}
        ):
            yield {"token"}

    @pytest.fixture
    def lookups(self, tokens: set[str]) -> Iterator[asyncio.Queue[asyncio.Event]]:
        """Each look-up that has its answer, and waits for the event until it gives it."""
        queue: asyncio.Queue[asyncio.Event] = asyncio.Queue()

        async def look_up(token: str, scope: Any) -> User | None:
            found = await User.objects.aget() if token in tokens else None
            event = asyncio.Event()
            queue.put_nowait(event)
            await event.wait()
            return found

        with mock.patch("tests.tokens.authenticators.by_name_async", look_up):
            yield queue

    async def test_in_a_frame(
        self, tokens: set[str], lookups: asyncio.Queue[asyncio.Event]
    ) -> None:
        ann = await user()
        async with PubSubCommunicator() as client:
            await client.send_json_to({"type": "authenticate", "token": "token"})
            first = await asyncio.wait_for(lookups.get(), 5)
            tokens.clear()
            await adisconnect(user=ann)
            first.set()
            (await asyncio.wait_for(lookups.get(), 5)).set()
            assert (await client.receive_json_from(5))["code"] == "unauthorized"

    async def test_in_the_handshake(
        self, tokens: set[str], lookups: asyncio.Queue[asyncio.Event]
    ) -> None:
        ann = await user()
        async with one_runtime():
            client = PubSubCommunicator(headers=bearer("token"))
            connecting = asyncio.create_task(client.__aenter__())
            first = await asyncio.wait_for(lookups.get(), 5)
            tokens.clear()
            await adisconnect(user=ann)
            first.set()
            await connecting
            # It comes back, and is asked for its token again.
            assert await is_closed(client) == 4103
