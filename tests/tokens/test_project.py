"""The call of the project's authenticator."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.db import Error as DatabaseError

from dwsps_channels.conf import conf
from dwsps_channels.protocol.messages import MAX_TOKEN
from dwsps_channels.threads.pools import Busy, look_up
from dwsps_channels.tokens import Authentication, places, project
from dwsps_channels.tokens.project import MAX_CALLS, AuthenticatorFailed, ProjectAuthenticator
from tests.connections.transports.contract import turns
from tests.processes import wait_until_async
from tests.tokens import authenticators

HERE = "192.0.2.1"

db = pytest.mark.django_db(transaction=True)


async def ask(authenticator: Any, token: str = "ann") -> Authentication | None:
    return await ProjectAuthenticator(authenticator).authenticate(token, {"path": "/ws/ann/"}, HERE)


@db
@pytest.mark.parametrize(
    "authenticator",
    [
        authenticators.by_name,
        authenticators.by_name_async,
        authenticators.handed_on,
        authenticators.ByName(),
        authenticators.ByNameAsync(),
        authenticators.by_path,
    ],
)
async def test_plain_ones_and_async_ones_tell_the_user(authenticator: Any) -> None:
    ann = await User.objects.acreate(username="ann")
    assert await ask(authenticator) == Authentication(ann)


@db
@pytest.mark.parametrize("authenticator", [authenticators.by_name, authenticators.by_name_async])
async def test_or_that_there_is_none(authenticator: Any) -> None:
    assert await ask(authenticator, "bob") is None


@pytest.mark.parametrize("expires_at", [2.0**40, 2**40, None])
async def test_when_it_expires_is_handed_on(expires_at: float | None) -> None:
    found = Authentication(User(pk=1, username="ann"), expires_at)
    assert await ask(lambda token, scope: found) == found


async def test_one_that_has_expired_is_refused_whatever_it_says() -> None:
    ann = User(pk=1, username="ann")
    assert await ask(lambda token, scope: Authentication(ann, 5.0)) is None


async def test_a_date_is_no_time_and_the_log_says_what_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dated: Any = Authentication(User(pk=1, username="ann"), datetime.now())  # type: ignore[arg-type]
    with pytest.raises(AuthenticatorFailed):
        await ask(lambda token, scope: dated)
    assert "expires_at is seconds since 1970, not datetime" in caplog.text


@pytest.mark.parametrize("expires_at", [float("inf"), float("nan")])
async def test_nor_is_a_number_that_no_clock_reaches(
    expires_at: float, caplog: pytest.LogCaptureFixture
) -> None:
    endless = Authentication(User(pk=1, username="ann"), expires_at)
    with pytest.raises(AuthenticatorFailed):
        await ask(lambda token, scope: endless)
    assert "expires_at is None if the token does not expire" in caplog.text


async def test_a_deactivated_user_and_nobody_are_refused_whatever_it_says() -> None:
    assert await ask(authenticators.deactivated) is None
    assert await ask(lambda token, scope: AnonymousUser()) is None


@pytest.mark.parametrize(
    "token", ["", "a b", "\x00", "é", "\ud800", "a\r\nb", "x" * (MAX_TOKEN + 1)]
)
async def test_what_cannot_be_a_token_is_not_asked_about(token: str) -> None:
    assert await ask(authenticators.failing, token) is None


@pytest.mark.parametrize(
    "authenticator",
    [
        authenticators.failing,
        authenticators.failing_async,
        authenticators.quoted_by_database,
        authenticators.a_tuple,
    ],
)
async def test_a_failure_is_logged_without_the_token(
    authenticator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "dwsps_channels")
    with pytest.raises(AuthenticatorFailed) as caught:
        await ask(authenticator, "secret-token")
    [record] = [each for each in caplog.records if each.name == "dwsps_channels.tokens"]
    assert record.levelno == logging.ERROR
    assert "the authenticator failed" in record.getMessage()
    assert "Traceback" in record.getMessage()
    assert "secret-token" not in caplog.text
    assert "secret-token" not in repr(caught.value)
    assert caught.value.__cause__ is None


async def test_a_tuple_is_no_user_and_the_log_says_what_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(AuthenticatorFailed):
        await ask(authenticators.a_tuple)
    assert "returns a user, an Authentication or None, not tuple" in caplog.text


async def test_a_database_that_is_away_is_the_callers_to_answer() -> None:
    with pytest.raises(DatabaseError):
        await ask(authenticators.without_database)


async def test_async_calls_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "CALL_TIMEOUT", 60.0)
    monkeypatch.setattr(places, "MAX_WAIT", 60.0)
    active, most = 0, 0
    end = asyncio.Event()

    async def hang(token: str, scope: Any) -> Any:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await end.wait()
        active -= 1

    asked = ProjectAuthenticator(hang)
    calls = [
        asyncio.ensure_future(asked.authenticate("token", {}, f"192.0.2.{number}"))
        for number in range(2 * MAX_CALLS + 4)
    ]
    await wait_until_async(lambda: active == MAX_CALLS)
    await turns()
    end.set()
    assert await asyncio.gather(*calls) == [None] * len(calls)
    assert (active, most) == (0, MAX_CALLS)


async def test_an_async_call_that_hangs_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(project, "CALL_TIMEOUT", 0.05)
    ended = 0

    async def hang(token: str, scope: Any) -> Any:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            ended += 1

    asked = ProjectAuthenticator(hang)
    for number in range(MAX_CALLS + 1):  # none of them keeps its place
        with pytest.raises(AuthenticatorFailed):
            await asked.authenticate("token", {}, f"192.0.2.{number}")
    assert ended == MAX_CALLS + 1
    assert "the authenticator failed: there was no answer within 0.05 s" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("is_handed_on", [False, True])
async def test_one_address_does_not_keep_others_waiting(is_handed_on: bool) -> None:
    """As with tokens that have the form of signed ones, and that a slow authenticator has to look at."""
    end = asyncio.Event()

    async def hang(token: str, scope: Any) -> Any:
        await asyncio.wait_for(end.wait(), 30) if token == "garbage" else None

    asked = ProjectAuthenticator(
        (lambda token, scope: hang(token, scope)) if is_handed_on else hang
    )
    flood = [
        asyncio.ensure_future(asked.authenticate("garbage", {}, HERE)) for _ in range(2 * MAX_CALLS)
    ]
    await asyncio.sleep(0)
    assert await asked.authenticate("token", {}, "192.0.2.2") is None
    assert not any(each.done() for each in flood)
    end.set()
    assert await asyncio.gather(*flood) == [None] * len(flood)


class TestPlainOnes:
    """Calls of plain authenticators, in threads as in a server."""

    @pytest.fixture(autouse=True)
    def as_in_a_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr("django.test.utils._TestState.saved_data")
        monkeypatch.setattr(project, "CALL_TIMEOUT", 0.1)

    @pytest.fixture
    def goes_on(self) -> Iterator[threading.Event]:
        event = threading.Event()
        yield event
        event.set()

    async def test_one_that_hangs_is_given_up_and_keeps_its_place_until_it_ends(
        self,
        goes_on: threading.Event,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        began = threading.Semaphore(0)

        def hang(token: str, scope: Any) -> Any:
            began.release()
            assert goes_on.wait(30)

        asked = ProjectAuthenticator(hang)
        threads = conf.LOOKUP_THREADS
        calls = [asked.authenticate("token", {}, f"192.0.2.{n}") for n in range(threads)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in answers} == {AuthenticatorFailed}
        assert (
            f"no answer within 0.1 s; threads that such calls still keep: 1 of {threads}"
            in caplog.text
        )
        assert "Traceback" not in caplog.text

        monkeypatch.setattr(project, "CALL_TIMEOUT", 30.0)
        later = asyncio.ensure_future(asked.authenticate("token", {}, HERE))
        # Threads of sessions are others.
        assert await look_up(lambda: "looked up") == "looked up"
        for _ in range(threads):
            await wait_until_async(lambda: began.acquire(blocking=False))
        assert not began.acquire(blocking=False)
        goes_on.set()
        assert await later is None

    async def test_nor_does_its_client_free_the_place_by_leaving(
        self, goes_on: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(project, "CALL_TIMEOUT", 30.0)
        monkeypatch.setattr(places, "MAX_WAIT", 0.05)
        began = threading.Semaphore(0)

        def hang(token: str, scope: Any) -> Any:
            began.release()
            assert goes_on.wait(30)

        asked = ProjectAuthenticator(hang)
        for number in range(conf.LOOKUP_THREADS):
            call = asyncio.ensure_future(asked.authenticate("token", {}, f"192.0.2.{number}"))
            await wait_until_async(lambda: began.acquire(blocking=False))
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        with pytest.raises(Busy):
            await asked.authenticate("token", {}, HERE)

    async def test_what_it_raises_too_late_is_nobodys(self, goes_on: threading.Event) -> None:
        def fail(token: str, scope: Any) -> Any:
            goes_on.wait(30)
            raise LookupError

        asked = ProjectAuthenticator(fail)
        with pytest.raises(AuthenticatorFailed):
            await asked.authenticate("token", {}, HERE)
        [call] = asked._left
        goes_on.set()
        await asyncio.wait((call,))
        await wait_until_async(lambda: not asked._left)
