"""Policies, with the users and sessions of a real database."""

import logging
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.auth import AuthMiddlewareStack
from django.contrib.auth.models import AnonymousUser, Group, User
from django.db import OperationalError
from django.test import AsyncClient, Client, override_settings

from dwsps_channels import apublish
from dwsps_channels.consumers import PubSubConsumer
from dwsps_channels.policies import (
    AllowAll,
    AuthenticatedOnly,
    Decision,
    Identity,
    Policy,
    ReadOnly,
    ThreadOffloadingPolicy,
    nonblocking,
)
from dwsps_channels.testing import PubSubCommunicator, Refused
from dwsps_channels.threads import database

NOBODY = Identity("1")
VISITOR = Identity("2", AnonymousUser())
MEMBER = Identity("3", User(username="ada"))


class MembersOfGroup:
    """Plain methods that ask the database: a topic is a group."""

    asked_in: list[threading.Thread] = []  # noqa: RUF012  (for the tests to look at)

    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        found = identity.user.groups.filter(name=topic).exists()
        self.asked_in.append(threading.current_thread())
        return bool(found)

    def may_publish(self, identity: Identity, topic: str) -> bool:
        return self.may_subscribe(identity, topic)


class AsyncMembersOfGroup:
    async def may_subscribe(self, identity: Identity, topic: str) -> bool:
        return bool(await identity.user.groups.filter(name=topic).aexists())

    async def may_publish(self, identity: Identity, topic: str) -> bool:
        return False


class FailsClosed(MembersOfGroup):
    """A policy whose methods fail: the answer is no."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        try:
            return super().may_subscribe(identity, topic)
        except Exception:
            return False


class Bridged(AllowAll):
    """A plain method that asks an async service."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        async def decide() -> bool:
            return True

        return async_to_sync(decide)()


class Loose:
    """Answers with what is at hand, not with a bool."""

    def may_subscribe(self, identity: Identity, topic: str) -> Any:
        return topic if topic == "yes" else None

    def may_publish(self, identity: Identity, topic: str) -> Any:
        raise LookupError(topic)


@pytest.fixture(autouse=True)
def forgotten() -> None:
    MembersOfGroup.asked_in.clear()


def policy(name: str) -> override_settings:
    return override_settings(DWSPS={"POLICY": f"tests.test_policies.{name}"})


class TestGivenPolicies:
    @pytest.mark.parametrize(
        ("given", "identity", "may_subscribe", "may_publish"),
        [
            (AllowAll(), NOBODY, True, True),
            (AllowAll(), VISITOR, True, True),
            (AllowAll(), MEMBER, True, True),
            (AuthenticatedOnly(), NOBODY, False, False),
            (AuthenticatedOnly(), VISITOR, False, False),
            (AuthenticatedOnly(), MEMBER, True, True),
            (ReadOnly(), NOBODY, True, False),
            (ReadOnly(), VISITOR, True, False),
            (ReadOnly(), MEMBER, True, False),
        ],
    )
    def test_what_each_allows(
        self, given: Policy, identity: Identity, may_subscribe: bool, may_publish: bool
    ) -> None:
        for asked in (given, ThreadOffloadingPolicy(given)):
            assert asked.may_subscribe(identity, "a") is may_subscribe
            assert asked.may_publish(identity, "a") is may_publish

    @pytest.mark.parametrize(
        ("name", "user", "refused"),
        [
            ("AllowAll", None, []),
            ("AuthenticatedOnly", None, ["subscribe", "publish"]),
            ("AuthenticatedOnly", AnonymousUser(), ["subscribe", "publish"]),
            ("AuthenticatedOnly", User(username="ada"), []),
            ("ReadOnly", User(username="ada", is_superuser=True), ["publish"]),
        ],
    )
    async def test_what_each_allows_a_client(
        self, name: str, user: Any, refused: list[str]
    ) -> None:
        found = []
        with override_settings(DWSPS={"POLICY": f"dwsps_channels.policies.{name}"}):
            async with PubSubCommunicator(user=user) as client:
                for action, call in (
                    ("subscribe", client.subscribe("a.b")),
                    ("publish", client.publish("a.b", 1)),
                ):
                    try:
                        await call
                    except Refused as error:
                        found.append((action, error.code, error.reason))
        assert found == [
            (action, "forbidden", f"not allowed to {action} to 'a.b'") for action in refused
        ]


@pytest.fixture
def ada(transactional_db: None) -> User:
    user = User.objects.create_user("ada", password="engine")
    user.groups.add(Group.objects.create(name="mathematicians"))
    return user


class TestDatabase:
    @policy("MembersOfGroup")
    async def test_a_plain_method_that_asks_it_answers_from_a_thread(self, ada: User) -> None:
        async with PubSubCommunicator(user=ada) as client:
            for _ in range(2):
                await client.subscribe("mathematicians")
                with pytest.raises(Refused, match="forbidden"):
                    await client.subscribe("poets")
            await client.publish("mathematicians", 1)
            assert (await client.receive())["message"] == 1
        assert len(MembersOfGroup.asked_in) == 5
        assert threading.main_thread() not in MembersOfGroup.asked_in

    @policy("MembersOfGroup")
    async def test_it_sees_what_has_changed(self, ada: User) -> None:
        async with PubSubCommunicator(user=ada) as client:
            await client.subscribe("mathematicians")
            await ada.groups.aclear()
            with pytest.raises(Refused, match="forbidden"):
                await client.subscribe("mathematicians")

    @policy("AsyncMembersOfGroup")
    async def test_an_async_method_asks_it_itself(self, ada: User) -> None:
        async with PubSubCommunicator(user=ada) as client:
            await client.subscribe("mathematicians")
            with pytest.raises(Refused, match="forbidden"):
                await client.subscribe("poets")
            with pytest.raises(Refused, match="forbidden"):
                await client.publish("mathematicians", 1)


class TestWhereItRuns:
    @policy("Bridged")
    async def test_a_plain_method_may_wait_for_async_code(self) -> None:
        async with PubSubCommunicator() as client:
            await client.subscribe("a")

    @policy("FailsClosed")
    async def test_one_that_catches_what_goes_wrong_may_ask_the_database(self, ada: User) -> None:
        async with PubSubCommunicator(user=ada) as client:
            await client.subscribe("mathematicians")

    async def test_a_plain_method_runs_in_a_thread_and_a_marked_one_on_the_loop(self) -> None:
        ran_in: list[threading.Thread] = []

        class Mixed:
            def may_subscribe(self, identity: Identity, topic: str) -> bool:
                ran_in.append(threading.current_thread())
                return True

            @nonblocking
            def may_publish(self, identity: Identity, topic: str) -> bool:
                ran_in.append(threading.current_thread())
                return True

        asked = ThreadOffloadingPolicy(Mixed())
        assert await answer(asked.may_subscribe(NOBODY, "a")) is True
        assert asked.may_publish(NOBODY, "a") is True
        assert [thread is threading.main_thread() for thread in ran_in] == [False, True]

    async def test_the_mark_is_not_inherited_by_a_method_that_replaces_it(self) -> None:
        class Half(AllowAll):
            def may_publish(self, identity: Identity, topic: str) -> bool:
                return threading.current_thread() is threading.main_thread()

        asked = ThreadOffloadingPolicy(Half())
        assert asked.may_subscribe(NOBODY, "a") is True
        assert await answer(asked.may_publish(NOBODY, "a")) is False

    async def test_a_plain_method_may_hand_on_an_awaitable(self) -> None:
        class Handing:
            def may_subscribe(self, identity: Identity, topic: str) -> Any:
                return self.decide(topic)

            may_publish = nonblocking(may_subscribe)

            async def decide(self, topic: str) -> bool:
                return topic == "yes"

        asked = ThreadOffloadingPolicy(Handing())
        for question in (asked.may_subscribe, asked.may_publish):
            assert await answer(question(NOBODY, "yes")) is True
            assert await answer(question(NOBODY, "no")) is False

    async def test_broken_connections_of_async_methods_are_closed_after_each_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Failing:
            async def may_subscribe(self, identity: Identity, topic: str) -> bool:
                raise OperationalError

            may_publish = may_subscribe

        closed: list[None] = []
        monkeypatch.setattr(database, "close_old_connections", lambda: closed.append(None))
        asked = ThreadOffloadingPolicy(Failing())
        for question in (asked.may_subscribe, asked.may_publish) * 2:
            with pytest.raises(OperationalError):
                await answer(question(NOBODY, "a"))
        assert len(closed) == 4


class TestDocumentation:
    """The example of docs/how-to/policies.md, "Say more than yes or no"."""

    @pytest.fixture
    def documented(self) -> type[Policy]:
        text = (Path(__file__).parent.parent / "docs" / "how-to" / "policies.md").read_text()
        [code] = re.findall(r"^```python\n([^`]*class NewsPolicy.*?)^```$", text, re.M | re.S)
        names: dict[str, Any] = {}
        exec(code, names)
        found: type[Policy] = names["NewsPolicy"]
        return found

    async def test_staff_get_everything_and_others_do_not_get_what_is_for_staff(
        self, documented: type[Policy], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tests.test_policies.Documented", documented, raising=False)
        with policy("Documented"):
            staff = User(username="ada", is_staff=True)
            async with (
                PubSubCommunicator(user=staff) as editor,
                PubSubCommunicator(user=VISITOR.user) as reader,
            ):
                await editor.subscribe("news")
                await reader.subscribe("news")
                with pytest.raises(Refused, match=r"news\.staff is for staff"):
                    await reader.subscribe("news.staff.rota")
                with pytest.raises(Refused, match="there is only news here"):
                    await reader.subscribe("sport")
                for topic in ("news.staff.rota", "news.uk"):
                    await apublish(topic, topic)
                assert (await reader.receive())["topic"] == "news.uk"
                assert (await editor.receive())["topic"] == "news.staff.rota"


class Deciding:
    """Answers with decisions: at once, from a thread and from a coroutine."""

    @nonblocking
    def may_publish(self, identity: Identity, topic: str) -> Decision:
        return Decision(topic == "open", "it is closed")

    def may_subscribe(self, identity: Identity, topic: str) -> Any:
        if topic == "later":
            return self.decide()
        return Decision(topic == "open", "it is closed", denied=("open.staff",))

    async def decide(self) -> Decision:
        return Decision(False, "it is late")


class TestAnswers:
    @policy("Deciding")
    async def test_a_decision_reaches_the_client(self) -> None:
        async with PubSubCommunicator() as client:
            await client.subscribe("open")
            for call, reason in (
                (client.subscribe("shut"), "not allowed to subscribe to 'shut': it is closed"),
                (client.subscribe("later"), "not allowed to subscribe to 'later': it is late"),
                (client.publish("shut", 1), "not allowed to publish to 'shut': it is closed"),
            ):
                with pytest.raises(Refused) as caught:
                    await call
                assert (caught.value.code, caught.value.reason) == ("forbidden", reason)

    async def test_a_decision_is_handed_on_as_it_is(self) -> None:
        asked = ThreadOffloadingPolicy(Deciding())
        expected = Decision(True, "it is closed", denied=("open.staff",))
        assert await answer(asked.may_subscribe(NOBODY, "open")) == expected
        assert asked.may_publish(NOBODY, "open") == Decision(True, "it is closed")

    @policy("Loose")
    async def test_whatever_is_true_allows(self) -> None:
        async with PubSubCommunicator() as client:
            await client.subscribe("yes")
            with pytest.raises(Refused, match="forbidden"):
                await client.subscribe("no")

    @policy("Loose")
    async def test_a_policy_that_raises_refuses_and_is_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with PubSubCommunicator() as client:
            with pytest.raises(Refused, match="unavailable"):
                await client.publish("secret", 1)
            await client.subscribe("yes")
        [record] = caplog.records
        assert record.levelno == logging.ERROR
        assert record.exc_info is not None
        assert record.exc_info[0] is LookupError


class TestSession:
    """The whole way: Django logs in, the browser sends the cookie, the policy knows the user."""

    application: Any = AuthMiddlewareStack(PubSubConsumer.as_asgi())

    @pytest.fixture
    def cookie(self, ada: User, client: Client) -> list[tuple[bytes, bytes]]:
        assert client.login(username="ada", password="engine")
        return [(b"cookie", f"sessionid={client.cookies['sessionid'].value}".encode())]

    @policy("MembersOfGroup")
    async def test_the_user_of_the_cookie_is_asked_for(
        self, cookie: list[tuple[bytes, bytes]]
    ) -> None:
        async with PubSubCommunicator(self.application, headers=cookie) as client:
            await client.subscribe("mathematicians")
            with pytest.raises(Refused, match="forbidden"):
                await client.subscribe("poets")

    @override_settings(DWSPS={"POLICY": "dwsps_channels.policies.AuthenticatedOnly"})
    async def test_logged_in_or_not_is_told_apart(self, cookie: list[tuple[bytes, bytes]]) -> None:
        async with PubSubCommunicator(self.application, headers=cookie) as client:
            await client.subscribe("a")
        stale = [(b"cookie", b"sessionid=made-up")]
        for headers in ([], stale):
            async with PubSubCommunicator(self.application, headers=headers) as client:
                with pytest.raises(Refused, match="forbidden"):
                    await client.subscribe("a")

    @override_settings(DWSPS={"POLICY": "dwsps_channels.policies.AuthenticatedOnly"})
    async def test_who_has_logged_out_is_nobody(
        self, cookie: list[tuple[bytes, bytes]], async_client: AsyncClient
    ) -> None:
        async_client.cookies["sessionid"] = cookie[0][1].decode().partition("=")[2]
        await async_client.alogout()
        async with PubSubCommunicator(self.application, headers=cookie) as client:
            with pytest.raises(Refused, match="forbidden"):
                await client.subscribe("a")

    @override_settings(DWSPS={"POLICY": "dwsps_channels.policies.AuthenticatedOnly"})
    async def test_without_the_middleware_the_cookie_counts_for_nothing(
        self, cookie: list[tuple[bytes, bytes]]
    ) -> None:
        async with PubSubCommunicator(PubSubConsumer.as_asgi(), headers=cookie) as client:
            with pytest.raises(Refused, match="forbidden"):
                await client.subscribe("a")


async def answer(asked: Any) -> Any:
    return await asked
