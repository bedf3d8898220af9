"""Changes of access, as the connections of one process notice them: with real Django sessions, in this process."""

import asyncio
import gc
import time
from collections.abc import Iterator
from datetime import timedelta
from http.cookies import Morsel
from threading import Event
from typing import Any

import channels.auth
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, User
from django.contrib.sessions.models import Session as DjangoSession
from django.db import OperationalError
from django.test import Client, override_settings
from django.utils import timezone
from django.utils.functional import SimpleLazyObject

from dwsps_channels import apublish
from dwsps_channels.access import adisconnect, apermission_changed, disconnect
from dwsps_channels.auth import AuthMiddlewareStack
from dwsps_channels.broker.sending.send_queue import refused
from dwsps_channels.consumers import PubSubConsumer
from dwsps_channels.core.identity import Identity
from dwsps_channels.core.log import Log
from dwsps_channels.core.notice import Disconnect, Rules, Verify
from dwsps_channels.core.policy import Decision
from dwsps_channels.peering.inbound.authentication import UNAUTHENTICATED
from dwsps_channels.policies import nonblocking
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.publishing import notifying
from dwsps_channels.publishing.notifying import lost_notices
from dwsps_channels.server import logins, rechecker, runtime, turns
from dwsps_channels.testing import Closed, PubSubCommunicator
from tests.core.recording import RecordingTransport
from tests.processes import wait_until_async

pytestmark = pytest.mark.django_db(transaction=True)

PASSWORD = "correct horse"

# Seconds in which a client has connected, on a busy machine as well.
A_WHILE = 2.5


class Members:
    """Those in the group ``members`` may subscribe. Everybody may publish."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        assert identity.user is not None
        return bool(identity.user.groups.filter(name="members").exists())

    def may_publish(self, identity: Identity, topic: str) -> bool:
        return True


class Open:
    """Everybody may do everything. The policy counts how many of its answers are awaited at once."""

    asked = 0
    at_once = 0
    most_at_once = 0
    allows = True
    fails = False
    recheck_after: float | None = None
    pause = 0.0

    async def may_subscribe(self, identity: Identity, topic: str) -> Decision:
        if self.fails:
            raise ValueError("no such table")
        Open.asked += 1
        Open.at_once += 1
        Open.most_at_once = max(Open.most_at_once, Open.at_once)
        await asyncio.sleep(self.pause)
        Open.at_once -= 1
        return Decision(self.allows, recheck_after=self.recheck_after)

    @nonblocking
    def may_publish(self, identity: Identity, topic: str) -> bool:
        return True


class Deciding(Open):
    """The policy decides about publishes when the test lets it."""

    async def may_publish(self, identity: Identity, topic: str) -> bool:  # type: ignore[override]
        Open.asked += 1
        await Deciding.may_answer.wait()
        return bool(identity.user and identity.user.is_active)

    may_answer: asyncio.Event


@pytest.fixture(autouse=True)
def policy() -> Iterator[None]:
    Open.asked = Open.at_once = Open.most_at_once = 0
    Open.allows, Open.fails, Open.recheck_after, Open.pause = True, False, None, 0.0
    with override_settings(DWSPS={"POLICY": f"{__name__}.Open"}):
        yield


@pytest.fixture
def members() -> Iterator[Group]:
    with override_settings(DWSPS={"POLICY": f"{__name__}.Members"}):
        yield Group.objects.create(name="members")


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ann", password=PASSWORD, is_staff=True)


@pytest.fixture
def fast_resends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(notifying.resender, "_sleep", lambda seconds: time.sleep(0.01))
    lost_notices.forget()
    yield
    lost_notices.forget()


class Browser(Client):
    """A browser in which a user has logged in, and its websocket."""

    def __init__(self, user: User) -> None:
        super().__init__()
        self.force_login(user)

    def connect(self, stack: Any = AuthMiddlewareStack) -> PubSubCommunicator:
        def header(name: str, morsel: "Morsel[str]") -> str:
            return f"{name}={morsel.value}"

        cookies = "; ".join(header(*each) for each in self.cookies.items())
        return PubSubCommunicator(
            stack(PubSubConsumer.as_asgi()), headers=[(b"cookie", cookies.encode())]
        )


async def browser_of(user: User) -> Browser:
    return await sync_to_async(Browser)(user)


async def closed(client: PubSubCommunicator) -> int:
    """Wait until the server closes the connection; return the code."""
    try:
        while True:
            await client.receive()
    except Closed as error:
        return error.code


async def ended(client: PubSubCommunicator) -> dict[str, str]:
    """Wait until the server ends subscriptions, and nothing came before that; return the code of each."""
    while not client.ended:
        assert await client.received_nothing()
    return {topic: error.code for topic, error in client.ended.items()}


async def logins_of_all() -> list[object]:
    server = await runtime.obtain()
    return [server.rechecker._watches[each].login for each in server.sessions]


@pytest.mark.parametrize(
    "stack", [AuthMiddlewareStack, channels.auth.AuthMiddlewareStack], ids=["ours", "Channels'"]
)
async def test_a_logout_ends_the_connections_of_its_session(user: User, stack: Any) -> None:
    one, other = await browser_of(user), await browser_of(user)
    async with (
        one.connect(stack) as first,
        one.connect(stack) as second,
        other.connect(stack) as third,
    ):
        assert {type(each) for each in await logins_of_all()} == {logins.SessionLogin}
        await sync_to_async(one.logout)()
        assert [await closed(each) for each in (first, second)] == [4001, 4001]
        assert await third.received_nothing()


async def test_a_new_password_ends_the_users_other_sessions(user: User) -> None:
    changing, other = await browser_of(user), await browser_of(user)
    bystander = await browser_of(await User.objects.acreate(username="bob"))
    async with changing.connect() as one, other.connect() as two, bystander.connect() as three:
        change = {
            "old_password": PASSWORD,
            "new_password1": "battery staple",
            "new_password2": "battery staple",
        }
        answer = await sync_to_async(changing.post)("/admin/password_change/", change)
        assert answer.status_code == 302
        assert await closed(two) == 4001
        # It has another key now, and comes back with that.
        assert await closed(one) == 4103
        async with changing.connect() as again:
            await again.subscribe("news")
            assert await three.received_nothing()


@pytest.mark.parametrize("change", ["deactivate", "delete"])
async def test_a_user_that_is_no_more_has_no_connections(user: User, change: str) -> None:
    browser = await browser_of(user)
    async with browser.connect() as client:
        if change == "delete":
            await user.adelete()
        else:
            user.is_active = False
            await user.asave()
        assert await closed(client) == 4001


async def test_disconnect_closes_the_connections_of_a_user(user: User) -> None:
    one, other = await browser_of(user), await browser_of(user)
    async with one.connect() as first, other.connect() as second:
        await adisconnect(user=user)
        assert [await closed(first), await closed(second)] == [4001, 4001]


async def test_nothing_that_is_published_later_reaches_who_is_out(user: User) -> None:
    browser = await browser_of(user)
    async with browser.connect() as client:
        await client.subscribe("news")
        await apublish("news", 1)
        assert (await client.receive())["message"] == 1
        await adisconnect(session_key=browser.session.session_key)
        await apublish("news", 2)
        with pytest.raises(Closed, match="4001"):
            await client.receive()


async def test_a_group_that_is_taken_away_ends_subscriptions(user: User, members: Group) -> None:
    await user.groups.aadd(members)
    browser = await browser_of(user)
    async with browser.connect() as client:
        await client.subscribe("news")
        await user.groups.aremove(members)
        await apublish("news", 1)
        assert await ended(client) == {"news": "forbidden"}


async def test_who_keeps_its_right_misses_nothing(user: User) -> None:
    browser = await browser_of(user)
    async with browser.connect() as client:
        await client.subscribe("news")
        for number in range(20):
            await apublish("news", number)
            await apermission_changed(user)
        assert [(await client.receive())["message"] for _ in range(20)] == list(range(20))


async def test_a_policy_is_asked_about_the_topic_alone(user: User) -> None:
    browser = await browser_of(user)
    async with browser.connect() as client:
        for topic in ("news", "news.uk", "sports"):
            await client.subscribe(topic)
        Open.asked = 0
        await apermission_changed(topic="news.uk")
        assert await client.received_nothing()
        assert Open.asked == 2
        await apermission_changed()
        assert await client.received_nothing()
        assert Open.asked == 5


class TestExpiry:
    async def expire_in(self, browser: Browser, seconds: float) -> None:
        await DjangoSession.objects.filter(session_key=browser.session.session_key).aupdate(
            expire_date=timezone.now() + timedelta(seconds=seconds)
        )

    async def test_a_session_ends_at_its_time(self, user: User) -> None:
        browser = await browser_of(user)
        await self.expire_in(browser, A_WHILE)
        async with browser.connect() as client:
            assert await closed(client) == 4001

    async def test_one_that_was_prolonged_does_not(self, user: User) -> None:
        browser = await browser_of(user)
        await self.expire_in(browser, A_WHILE)
        async with browser.connect() as client:
            server = await runtime.obtain()
            [session] = server.sessions
            watch = server.rechecker._watches[session]
            await self.expire_in(browser, 3600)
            await wait_until_async(lambda: watch.found)
            assert await client.received_nothing()

    async def test_one_that_its_store_keeps_is_not_looked_up_all_the_time(
        self, user: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def keep(self: logins.SessionLogin) -> logins.Found:
            return logins.Found(user, expires_at=1.0)

        monkeypatch.setattr(rechecker, "MIN_EXPIRY_INTERVAL", 60.0)
        monkeypatch.setattr(logins.SessionLogin, "look_up", keep)
        browser = await browser_of(user)
        async with browser.connect() as client:
            server = await runtime.obtain()
            [session] = server.sessions
            watch = server.rechecker._watches[session]
            await apermission_changed(user)
            await wait_until_async(lambda: watch.found)
            assert await client.received_nothing()
            assert watch.expiry is not None
            # Not the one that it came with, of two weeks.
            assert 30 < watch.expiry.when() - asyncio.get_running_loop().time() < 61

    async def test_nobody_watches_it_if_that_is_turned_off(self, user: User) -> None:
        browser = await browser_of(user)
        with override_settings(DWSPS={"REVOKE": False}):
            async with browser.connect():
                server = await runtime.obtain()
                [session] = server.sessions
                assert server.rechecker._watches[session].expiry is None


async def test_a_session_that_was_deleted_sends_its_client_back(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rechecker, "MOVE_GRACE", 0.01)
    browser = await browser_of(user)
    async with browser.connect() as client:
        await DjangoSession.objects.all().adelete()
        await apermission_changed(user)
        assert await closed(client) == 4103


async def test_a_client_that_cannot_be_looked_up_is_sent_away(
    user: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: object) -> None:
        raise OperationalError("the database is away")

    browser = await browser_of(user)
    async with browser.connect() as client:
        monkeypatch.setattr(logins.SessionLogin, "look_up", fail)
        await apermission_changed(user)
        assert await closed(client) == 4103
    assert "the database is away" in caplog.text


@pytest.mark.parametrize("kind", ["another log", "a gap"])
async def test_notices_that_may_have_been_missed_have_everybody_looked_up(
    user: User, kind: str
) -> None:
    browser = await browser_of(user)
    async with browser.connect() as client:
        await User.objects.aupdate(is_active=False)
        server = await runtime.obtain()
        if kind == "a gap":
            server.node.miss()
        else:
            server.node.begin(Log("another"))
        assert await closed(client) == 4001


async def test_gaps_in_a_row_are_made_up_for_together(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = await browser_of(user)
    async with browser.connect() as client:
        server = await runtime.obtain()
        monkeypatch.setattr(rechecker, "MISSED_PAUSE", 60.0)
        Open.asked = 0
        await client.subscribe("news")
        for _ in range(10):
            server.node.miss()
            assert await client.received_nothing()
        assert Open.asked == 2
        # At the end of the pause.
        await User.objects.aupdate(is_active=False)
        server.rechecker._end_missed_pause()
        assert await closed(client) == 4001


async def test_a_change_that_the_broker_does_not_take_counts_in_this_process(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = await browser_of(user)
    async with browser.connect() as client:
        server = await runtime.obtain()
        monkeypatch.setattr(server.node, "_hand_over", lambda publication: refused("redis is away"))
        with pytest.raises(Unavailable):
            await adisconnect(user=user)
        assert await closed(client) == 4001


async def test_a_change_on_the_event_loop_counts_here_once_and_is_sent_until_the_broker_takes_it(
    user: User,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fast_resends: None,
) -> None:
    refusals = 0

    def refuse(publication: object) -> Any:
        nonlocal refusals
        refusals += 1
        return refused("redis is away")

    browser = await browser_of(user)
    async with browser.connect() as client:
        server = await runtime.obtain()
        with monkeypatch.context() as patch:
            patch.setattr(server.node, "_hand_over", refuse)
            disconnect(user=user)
            assert await closed(client) == 4001
            async with browser.connect() as again:
                before = refusals
                await wait_until_async(lambda: refusals >= before + 3)
                assert await again.received_nothing()
                patch.undo()
                assert await closed(again) == 4001
    await wait_until_async(lambda: notifying.resender._thread is None)
    assert "redis is away (1)" in caplog.text


async def test_a_broker_that_ends_before_it_answers_has_not_taken_a_change(
    user: User, monkeypatch: pytest.MonkeyPatch, fast_resends: None
) -> None:
    browser = await browser_of(user)
    async with browser.connect() as client:
        server = await runtime.obtain()
        answer = asyncio.get_running_loop().create_future()
        with monkeypatch.context() as patch:
            patch.setattr(server.node, "_hand_over", lambda publication: answer)
            disconnect(user=user)
        answer.cancel()
        assert await closed(client) == 4001
    assert lost_notices.total == 1
    await wait_until_async(lambda: notifying.resender._thread is None)


async def test_an_anonymous_client_is_not_looked_up() -> None:
    async with PubSubCommunicator() as client:
        await client.subscribe("news")
        server = await runtime.obtain()
        assert server.rechecker._watches == {}
        Open.allows = False
        await apermission_changed()
        assert await ended(client) == {"news": "forbidden"}


async def test_a_user_of_the_projects_own_middleware_is_looked_up_by_key(user: User) -> None:
    async with PubSubCommunicator(user=user) as client:
        user.set_password("another")
        await user.asave()
        assert await closed(client) == 4001


async def test_a_user_that_the_policy_has_loaded_is_looked_up_by_key(
    user: User, members: Group
) -> None:
    await user.groups.aadd(members)
    lazy = SimpleLazyObject(lambda: User.objects.get(pk=user.pk))
    async with PubSubCommunicator(user=lazy) as client:
        await client.subscribe("news")
        user.is_active = False
        await user.asave()
        assert await closed(client) == 4001


async def test_a_policy_can_ask_to_be_asked_again() -> None:
    Open.recheck_after = 0.05
    async with PubSubCommunicator() as client:
        await client.subscribe("news")
        await wait_until_async(lambda: Open.asked >= 3)
        Open.allows = False
        assert await ended(client) == {"news": "forbidden"}


async def test_subscriptions_that_have_ended_leave_no_timers() -> None:
    Open.recheck_after = 3600.0
    async with PubSubCommunicator() as client:
        for topic in ("news", "sport"):
            await client.subscribe(topic)
        await client.unsubscribe("news")
        server = await runtime.obtain()
        [watch] = server.rechecker._watches.values()
        assert list(watch.rechecks) == ["sport"]
        Open.allows = False
        await apermission_changed()
        assert await ended(client) == {"sport": "forbidden"}
        assert watch.rechecks == {}


async def test_a_few_are_asked_about_at_once_and_the_others_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # All are held back within the call, however busy the machine is.
    monkeypatch.setattr(turns, "SLICE", 60.0)
    clients = [PubSubCommunicator() for _ in range(50)]
    for client in clients:
        await client.__aenter__()
        for topic in ("news", "news.uk", "news.us"):
            await client.subscribe(topic)
    Open.asked = Open.most_at_once = 0
    Open.pause = 0.01
    await apermission_changed(topic="news")
    # Until there is an answer nobody gets anything; then everybody does.
    await apublish("news", 1)
    assert [(await client.receive())["message"] for client in clients] == [1] * len(clients)
    assert Open.asked == 3 * len(clients)
    assert 1 < Open.most_at_once <= turns.MAX_AT_ONCE
    for client in clients:
        await client.__aexit__()


async def test_others_have_a_turn_while_many_are_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SLICE", 0.0)
    monkeypatch.setattr(turns, "MANY", 20)
    clients = [PubSubCommunicator() for _ in range(20)]
    for client in clients:
        await client.__aenter__()
        await client.subscribe("news")
    slices = 0
    thresholds = gc.get_threshold()
    server = await runtime.obtain()
    server.rechecker.heed(Rules())
    while server.rechecker.stats().to_hold_back:
        await asyncio.sleep(0)
        slices += 1
        # Nor does a garbage collection halt them.
        assert gc.get_threshold() > thresholds
    assert slices >= len(clients) - 1
    await wait_until_async(lambda: not server.rechecker.stats().undecided)
    assert gc.get_threshold() == thresholds
    for client in clients:
        await client.__aexit__()


async def test_others_have_a_turn_while_many_are_disconnected(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "SLICE", 0.0)
    clients = [PubSubCommunicator(user=user) for _ in range(20)]
    for client in clients:
        await client.__aenter__()
    server = await runtime.obtain()
    async with PubSubCommunicator() as bystander:
        # Changes for all, whose turns come later.
        server.rechecker.heed(Rules())
        server.rechecker.heed(Disconnect(user=str(user.pk)))
        assert server.rechecker.stats().to_hold_back > len(clients)
        with pytest.raises(Closed, match="4001"):
            await clients[0].receive()
        assert [await closed(each) for each in clients[1:]] == [4001] * 19
        assert server.rechecker.stats().to_hold_back == 0
        assert await bystander.received_nothing()


async def test_what_waits_to_be_held_back_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SLICE", 0.0)
    clients = [PubSubCommunicator() for _ in range(5)]
    for client in clients:
        await client.__aenter__()
        await client.subscribe("news")
    server = await runtime.obtain()
    for _ in range(100):
        server.rechecker.heed(Rules())
        server.rechecker.heed(Verify())
    # Of either kind; one session has had its turn.
    assert len(server.rechecker._turns._backlog) <= 2 * len(clients)
    Open.allows = False
    for client in clients:
        assert await ended(client) == {"news": "forbidden"}
        await client.__aexit__()


async def test_a_server_that_ends_asks_nothing_more(recwarn: pytest.WarningsRecorder) -> None:
    clients = [PubSubCommunicator() for _ in range(40)]
    for client in clients:
        await client.__aenter__()
        await client.subscribe("news")
    Open.asked, Open.pause = 0, 60.0
    server = await runtime.obtain()
    server.rechecker.heed(Rules())
    await wait_until_async(lambda: Open.asked == turns.MAX_AT_ONCE)
    await server.rechecker.stop()
    assert Open.asked == turns.MAX_AT_ONCE
    assert list(recwarn) == []
    for client in clients:
        await client.__aexit__()


async def test_a_policy_that_fails_ends_subscriptions_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clients = [PubSubCommunicator() for _ in range(3)]
    for client in clients:
        await client.__aenter__()
        await client.subscribe("news")
    Open.fails = True
    await apermission_changed(topic="news")
    for client in clients:
        assert await ended(client) == {"news": "unavailable"}
        await client.__aexit__()
    (record,) = [each for each in caplog.records if each.exc_info]
    assert record.getMessage() == "subscriptions are ended, because the policy fails"


async def test_a_policy_that_hangs_is_a_no_and_others_have_their_turn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(turns, "MAX_ANSWER_TIME", 0.05)
    clients = [PubSubCommunicator() for _ in range(turns.MAX_AT_ONCE + 1)]
    for client in clients:
        await client.__aenter__()
        await client.subscribe("news")
    Open.pause = 3600.0
    await apermission_changed(topic="news")
    for client in clients:
        assert await ended(client) == {"news": "unavailable"}
    Open.pause = 0.0
    monkeypatch.setattr(turns, "MAX_ANSWER_TIME", 60.0)
    await clients[0].subscribe("news")
    await apermission_changed(topic="news")
    await apublish("news", 1)
    assert (await clients[0].receive())["message"] == 1
    assert "there was no answer within 0.05 s" in caplog.text
    for client in clients:
        await client.__aexit__()


async def test_a_client_whose_look_up_hangs_is_sent_away(
    user: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    goes_on = Event()
    browser = await browser_of(user)
    async with browser.connect() as client:
        monkeypatch.setattr(logins.SessionLogin, "look_up", lambda self: goes_on.wait())
        monkeypatch.setattr(turns, "MAX_ANSWER_TIME", 0.05)
        await apermission_changed(user)
        try:
            assert await closed(client) == 4103
        finally:
            goes_on.set()
    assert "there was no answer within 0.05 s" in caplog.text


async def test_a_client_that_leaves_while_it_is_looked_up_is_forgotten(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, goes_on = asyncio.Event(), asyncio.Event()

    async def later(look_up: object) -> logins.Found:
        began.set()
        await goes_on.wait()
        return logins.Found(user)

    monkeypatch.setattr(rechecker, "look_up", later)
    async with PubSubCommunicator(user=user):
        server = await runtime.obtain()
        server.rechecker.heed(Verify(str(user.pk)))
        await asyncio.wait_for(began.wait(), 5)
    await wait_until_async(lambda: not server.sessions)
    goes_on.set()
    await wait_until_async(lambda: not server.rechecker.stats().undecided)
    assert server.rechecker._watches == {}


async def test_many_changes_at_once_are_one_look_up(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = 0
    look_up = logins.SessionLogin.look_up

    def count(self: logins.SessionLogin) -> logins.Found:
        nonlocal looked_up
        looked_up += 1
        return look_up(self)

    browser = await browser_of(user)
    async with browser.connect() as client:
        monkeypatch.setattr(logins.SessionLogin, "look_up", count)
        server = await runtime.obtain()
        for _ in range(100):
            server.node.notify(Verify(str(user.pk)))
        assert await client.received_nothing()
        assert looked_up <= 2


async def test_those_that_wait_for_a_new_password_are_looked_up_a_few_at_once(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = most_at_once = 0
    are_there = asyncio.Event()

    async def nobody(look_up: object) -> logins.Found:
        nonlocal at_once, most_at_once
        at_once += 1
        most_at_once = max(most_at_once, at_once)
        if at_once == turns.MAX_AT_ONCE:
            are_there.set()
        await are_there.wait()
        # Those that may not be there yet have a chance to come.
        await asyncio.sleep(0.01)
        at_once -= 1
        return logins.Found(None)

    monkeypatch.setattr(rechecker, "PASSWORD_PAUSE", 0.05)
    monkeypatch.setattr(turns, "MAX_ANSWER_TIME", 60.0)
    monkeypatch.setattr(rechecker, "look_up", nobody)
    browser = await browser_of(user)
    clients = [browser.connect() for _ in range(2 * turns.MAX_AT_ONCE)]
    for client in clients:
        await client.__aenter__()
    await apermission_changed(user)
    for client in clients:
        assert await closed(client) == 4001
        await client.__aexit__()
    assert most_at_once == turns.MAX_AT_ONCE


class TestLateHandshake:
    """A client whose user was looked up just before a change, and whose connection is opened just after it."""

    async def test_it_is_looked_up_again(self, user: User) -> None:
        server = await runtime.obtain()
        stale = await User.objects.aget(pk=user.pk)
        user.is_active = False
        await user.asave()
        assert server.rechecker._recent
        async with PubSubCommunicator(user=stale) as client:
            assert await closed(client) == 4001

    async def test_also_if_the_change_is_finished_later(
        self, user: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rechecker, "LATE_LOOK_UPS", (0.0, A_WHILE))
        browser = await browser_of(user)
        key = browser.session.session_key
        assert key is not None
        await runtime.obtain()
        # As at a logout: Django tells of it, and then removes the session.
        await adisconnect(session_key=key)
        async with browser.connect() as client:
            await client.subscribe("news")
            await DjangoSession.objects.filter(session_key=key).adelete()
            monkeypatch.setattr(rechecker, "MOVE_GRACE", 0.01)
            assert await closed(client) == 4103

    async def test_its_look_ups_end_with_it(self, user: User) -> None:
        server = await runtime.obtain()
        server.rechecker.heed(Verify(str(user.pk)))
        async with PubSubCommunicator(user=user):
            [watch] = server.rechecker._watches.values()
            timers = watch.late
            assert len(timers) == len(rechecker.LATE_LOOK_UPS)
        await wait_until_async(lambda: timers[-1].cancelled())

    async def test_others_are_not(self, user: User) -> None:
        server = await runtime.obtain()
        other = await User.objects.acreate(username="bob")
        await adisconnect(user=user)
        async with PubSubCommunicator(user=other):
            [session] = server.sessions
            assert session not in server.rechecker._to_look_up


class TestAClientThatHasJustGone:
    """Its last publish is still being decided: on the fast lane a connection ends meanwhile."""

    @pytest.fixture(autouse=True)
    def slow_policy(self) -> Iterator[None]:
        Deciding.may_answer = asyncio.Event()
        with override_settings(DWSPS={"POLICY": f"{__name__}.Deciding"}):
            yield

    @pytest.mark.parametrize(
        ("change", "published"),
        [("nothing", "its last"), ("is_active", "after"), ("disconnect", "after")],
    )
    async def test_a_revocation_counts_for_it(
        self, user: User, change: str, published: str
    ) -> None:
        async with PubSubCommunicator() as reader:
            await reader.subscribe("news")
            server = await runtime.obtain()
            session = server.open_session(
                RecordingTransport(),
                await User.objects.aget(pk=user.pk),
                UNAUTHENTICATED,
                server.limits,
            )
            frame = '{"type":"publish","topic":"news","message":"its last"}'
            deciding = session.receive(frame)
            assert deciding is not None
            handled = asyncio.ensure_future(deciding)
            await wait_until_async(lambda: Deciding.asked == 2)  # with the reader's subscribe
            server.close_session(session, handled)
            if change == "is_active":
                user.is_active = False
                await user.asave()
            elif change == "disconnect":
                await adisconnect(user=user)
            Deciding.may_answer.set()
            await handled
            await apublish("news", "after")
            assert (await reader.receive())["message"] == published
            await wait_until_async(lambda: session not in server.rechecker._watches)
            assert session not in list(server.sessions)
