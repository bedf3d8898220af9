"""Who may subscribe and publish, with the users and sessions of a real database."""

import logging
import threading
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.auth import AuthMiddlewareStack
from django.contrib.auth.models import AnonymousUser, Group, User
from django.db import connection
from django.test import AsyncClient, Client, override_settings

from dwsps_channels.consumers import PubSubConsumer
from dwsps_channels.policies import (
    AllowAll,
    AuthenticatedOnly,
    Identity,
    Policy,
    ReadOnly,
    Unblocked,
)
from dwsps_channels.testing import PubSubCommunicator, Refused

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
        for asked in (given, Unblocked(given)):
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

    async def test_a_connection_that_broke_is_replaced(self, ada: User) -> None:
        """As a request's is: after a restart of the database the next question is answered again."""
        asked = Unblocked(MembersOfGroup())
        identity = Identity("1", ada)
        assert await answer(asked.may_subscribe(identity, "mathematicians")) is True

        def spoil() -> None:
            connection.errors_occurred = True

        closed: list[bool] = []

        def look() -> None:
            closed.append(connection.errors_occurred)

        await sync_to_async(spoil)()
        assert await answer(asked.may_subscribe(identity, "mathematicians")) is True
        await sync_to_async(look)()
        assert closed == [False]

    async def test_what_needs_a_thread_is_found_out_once_for_each_method(self, ada: User) -> None:
        tried_in: list[threading.Thread] = []

        class Half(AllowAll):
            def may_publish(self, identity: Identity, topic: str) -> bool:
                tried_in.append(threading.current_thread())
                return User.objects.filter(username=topic).exists()

        asked = Unblocked(Half())
        assert asked.may_subscribe(NOBODY, "ada") is True
        assert await answer(asked.may_publish(NOBODY, "ada")) is True
        assert await answer(asked.may_publish(NOBODY, "bob")) is False
        assert asked.may_subscribe(NOBODY, "ada") is True
        in_the_loop = [thread is threading.main_thread() for thread in tried_in]
        assert in_the_loop == [True, False, False]


class TestAnswers:
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
