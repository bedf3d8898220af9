"""The helpers for the tests of other projects."""

import asyncio
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.auth import AuthMiddlewareStack
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction
from django.test import override_settings
from pytest_django import DjangoCaptureOnCommitCallbacks

from dwsps_channels import apublish, publish
from dwsps_channels.broker.backends import ChannelLayerBackend
from dwsps_channels.consumers import PubSubConsumer
from dwsps_channels.core.log import Log
from dwsps_channels.exceptions import InvalidPayload, NotServing
from dwsps_channels.models import DurableMessage
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import InvalidTopic, Unavailable
from dwsps_channels.server import runtime
from dwsps_channels.testing import (
    Closed,
    Published,
    PubSubCommunicator,
    Refused,
    capture_publishes,
    outbox,
    real_publishes,
)
from tests.peering.site import id_of
from tests.processes import ROOT, Postgres, ServerFactory, base_environment, manage
from tests.reached import reached
from tests.wire.client import connected


class OwnTopicOnly:
    def may_subscribe(self, identity: Any, topic: str) -> bool:
        return bool(identity.user is not None and topic == f"users.{identity.user.username}")

    def may_publish(self, identity: Any, topic: str) -> bool:
        raise RuntimeError("a bug of the project's")


class TestCapturePublishes:
    @pytest.mark.django_db(transaction=True)
    def test_it_has_what_would_be_published(self) -> None:
        with capture_publishes() as published:
            assert reached(publish("news.uk", {"price": Decimal("1.50")})) == 0
            assert reached(publish("news", None)) == 0
        assert published == [("news.uk", {"price": "1.50"}), ("news", None)]
        assert published[0] == Published(topic="news.uk", message={"price": "1.50"})

    async def test_so_it_has_of_async_code(self) -> None:
        with capture_publishes() as published:
            assert reached(await apublish("a", 1)) == 0
            assert reached(await sync_to_async(publish)("b", 2, on_commit=False)) == 0
        assert published == [("a", 1), ("b", 2)]

    @pytest.mark.django_db(transaction=True)
    def test_a_transaction_publishes_on_commit(self) -> None:
        with capture_publishes() as published:
            with transaction.atomic():
                assert publish("a", 1) is None
                assert published == []
                publish("b", 2, on_commit=False)
                assert published == [("b", 2)]
            assert published == [("b", 2), ("a", 1)]
            with transaction.atomic():
                publish("c", 3)
                transaction.set_rollback(True)
        assert published == [("b", 2), ("a", 1)]

    @pytest.mark.django_db
    def test_it_works_with_what_captures_commits(
        self, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
    ) -> None:
        with capture_publishes() as published:
            with django_capture_on_commit_callbacks(execute=True):
                publish("a", 1)
                assert published == []
            assert published == [("a", 1)]

    @pytest.mark.django_db
    def test_so_do_durable_messages(
        self, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
    ) -> None:
        with django_capture_on_commit_callbacks(execute=True):
            publish("a", 1, durable=True)
            assert DurableMessage.objects.count() == 1
        assert outbox == [("a", 1)]
        assert outbox[0].durable
        assert DurableMessage.objects.count() == 0

    async def test_bad_topics_and_messages_raise_as_ever(self) -> None:
        with capture_publishes() as published:
            with pytest.raises(InvalidTopic):
                await apublish("a..b", 1)
            with pytest.raises(InvalidPayload):
                await apublish("a", object())
        assert published == []

    async def test_a_key_that_it_has_is_not_published_again(self) -> None:
        with capture_publishes() as published:
            offsets = [
                (await apublish("a", number, key=key)).offset
                for number, key in enumerate(["one", None, "two", "one", None])
            ]
        assert offsets == [1, 2, 3, 1, 4]
        assert published == [("a", 0), ("a", 1), ("a", 2), ("a", 4)]
        assert [each.key for each in published] == ["one", "", "two", ""]

    async def test_it_ends(self) -> None:
        with pytest.raises(ZeroDivisionError), capture_publishes():
            _ = 1 / 0
        await apublish("a", 1)
        assert outbox == [("a", 1)]

    async def test_the_innermost_counts(self) -> None:
        with capture_publishes() as outer:
            await apublish("a", 1)
            with capture_publishes() as inner:
                await apublish("a", 2)
            await apublish("a", 3)
        assert (outer, inner) == ([("a", 1), ("a", 3)], [("a", 2)])

    async def test_it_counts_where_a_server_runs_too(self) -> None:
        async with PubSubCommunicator() as client:
            await client.subscribe("a")
            with capture_publishes() as published:
                assert reached(await apublish("a", 1)) == 0
            assert published == [("a", 1)]
            assert await client.received_nothing()


NOBODY = {"SERVER_URL": "ws://127.0.0.1:1/"}


class TestOutbox:
    @pytest.mark.django_db(transaction=True)
    def test_it_has_what_a_test_publishes(self) -> None:
        assert outbox == []
        assert reached(publish("news.uk", {"price": Decimal("1.50")})) == 0
        with transaction.atomic():
            publish("news", "on commit")
            assert len(outbox) == 1
        assert outbox == [("news.uk", {"price": "1.50"}), ("news", "on commit")]
        assert outbox[0].topic == "news.uk"
        outbox.clear()
        assert outbox == []

    @pytest.mark.parametrize("number", [1, 2])
    async def test_it_is_empty_when_a_test_begins(self, number: int) -> None:
        assert outbox == []
        thread = threading.Thread(target=publish, args=("a", number))
        thread.start()
        thread.join()
        await apublish("b", number)
        assert outbox == [("a", number), ("b", number)]

    async def test_what_reaches_a_server_in_this_process_is_not_in_it(self) -> None:
        async with PubSubCommunicator() as client:
            await client.subscribe("a")
            assert reached(await apublish("a", 1)) == 1
            assert (await client.receive())["message"] == 1
        assert outbox == []

    @override_settings(DWSPS=NOBODY)
    def test_a_test_may_ask_for_the_real_thing(self) -> None:
        with real_publishes():
            with pytest.raises(NotServing):
                publish("a", 1)
            with capture_publishes() as published:
                publish("a", 2)
        publish("a", 3)
        assert published == [("a", 2)]
        assert outbox == [("a", 3)]


def test_a_tests_own_server_is_another_one_on_a_shared_redis() -> None:
    """As its database has another name."""
    with pytest.MonkeyPatch.context() as patch:
        in_tests = ChannelLayerBackend({}).group
        patch.delattr("django.test.utils._TestState.saved_data")
        assert f"{ChannelLayerBackend({}).group}.test" == in_tests


TESTS = """
import os
from django.conf import settings
from django.test import TransactionTestCase
from dwsps_channels import publish
from dwsps_channels.models import ServerIdentity
from dwsps_channels.exceptions import NotServing
from dwsps_channels.testing import outbox, real_publishes

class Paying(TransactionTestCase):
    def test_one(self):
        self.assertEqual(outbox, [])
        publish("orders.1", "made up")
        self.assertEqual(outbox, [("orders.1", "made up")])

    test_two = test_one

class Real(TransactionTestCase):
    def test_real(self):
        # The server has another database, and so takes nothing of a test: unless the test says it is that server.
        patient = {**settings.DWSPS, "PUBLISH_TIMEOUT": 30}
        with real_publishes(), self.settings(DWSPS=patient), self.assertRaisesRegex(NotServing, "403"):
            publish("orders.2", "refused")
        ServerIdentity.objects.update(server_id=os.environ["SERVER_ID"])
        # Other settings: nobody waits for the moment after a failure.
        with real_publishes(), self.settings(DWSPS={**patient, "PUBLISH_TIMEOUT": 60}):
            publish("orders.2", "real")
"""

PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", "--ds=project.settings"]


@pytest.mark.parametrize(
    "command",
    [["manage.py", "test", "project_tests"], [*PYTEST, "--pyargs", "project_tests"]],
    ids=["django", "pytest"],
)
async def test_a_projects_tests_do_not_reach_the_server_that_runs(
    command: list[str], start_server: ServerFactory, tmp_path: Path
) -> None:
    (tmp_path / "project_tests.py").write_text(TESTS)
    server = start_server("daphne")
    env = server.env | {
        "DWSPS_SERVER_URL": f"{server.url}/ws/pubsub/",
        "PYTHONPATH": str(tmp_path),
        "SERVER_ID": id_of(server),
    }
    async with connected(server.url) as developer:
        await developer.subscribe("orders")
        ran = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, *command],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert (await developer.receive())["message"] == "real"
        await developer.nothing_more()


class TestPubSubCommunicator:
    async def test_it_subscribes_publishes_and_receives(self) -> None:
        async with PubSubCommunicator() as one, PubSubCommunicator() as two:
            await one.subscribe("news")
            await two.publish("news.uk", {"headline": "Hello"})
            message = await one.receive()
            assert (message["topic"], message["context"]) == ("news.uk", "news")
            assert message["message"] == {"headline": "Hello"}
            await one.unsubscribe("news")
            await two.publish("news.uk", "unheard")
            assert await one.received_nothing()

    async def test_it_keeps_what_comes_before_an_answer(self) -> None:
        async with PubSubCommunicator() as client:
            await client.subscribe("a")
            await client.subscribe("a.b")
            await client.publish("a.b", 1)
            assert not await client.received_nothing()
            assert [(await client.receive())["context"] for _ in range(2)] == ["a.b", "a"]
            assert await client.received_nothing()

    async def test_it_gets_what_the_projects_code_publishes(self) -> None:
        async with PubSubCommunicator() as client:
            await client.subscribe("orders")
            assert reached(await apublish("orders.7", {"state": "paid"})) == 1
            assert (await client.receive())["message"] == {"state": "paid"}

    async def test_it_is_sent_again_what_was_published_after_a_cursor(self) -> None:
        async with PubSubCommunicator() as client:
            await client.subscribe("news")
            cursor = client.cursor
            assert await client.publish("news", "missed") == 1
        async with PubSubCommunicator() as client:
            assert await client.subscribe("news", since=cursor)
            assert (await client.receive())["message"] == "missed"
            assert client.cursor != cursor
            assert not await client.subscribe("news", since="another:0")
            assert await client.received_nothing()

    async def test_it_is_sent_the_last_messages(self) -> None:
        async with PubSubCommunicator() as client:
            for number in range(3):
                await client.publish("news", number)
            assert await client.subscribe("news", last=2)
            assert [(await client.receive())["message"] for _ in range(2)] == [1, 2]

    @override_settings(DWSPS={"POLICY": "tests.test_testing.OwnTopicOnly"})
    async def test_it_resumes_topics_each_by_itself(self) -> None:
        async with PubSubCommunicator(user=User(username="ada")) as ada:
            await ada.subscribe("users.ada")
            cursor = ada.cursor
            await apublish("users.ada", "missed")
        async with PubSubCommunicator(user=User(username="ada")) as ada:
            outcomes = await ada.resume(["users.ada", "users.bob"], cursor)
            assert outcomes["users.ada"] is True
            assert str(outcomes["users.bob"]) == (
                "forbidden: not allowed to subscribe to 'users.bob'"
            )
            assert (await ada.receive())["message"] == "missed"
            assert await ada.resume(["users.ada"], "another:0") == {"users.ada": False}
            assert await ada.received_nothing()

    async def test_it_publishes_a_key_once(self) -> None:
        async with PubSubCommunicator() as client:
            await client.subscribe("news")
            first = await client.publish("news", None, key="k")
            assert await client.publish("news", None, key="k") == first
            assert (await client.receive())["message"] is None
            assert await client.received_nothing()

    async def test_it_counts_resets(self) -> None:
        async with PubSubCommunicator() as client:
            await client.subscribe("news", last=0)
            server = await runtime.obtain()
            server.node.begin(Log(epoch="another"))
            await apublish("news", "after")
            assert (await client.receive())["message"] == "after"
            assert (client.resets, client.cursor) == (1, "another:0")

    @override_settings(DWSPS={"POLICY": "tests.test_testing.OwnTopicOnly"})
    async def test_it_is_who_the_test_says(self) -> None:
        async with (
            PubSubCommunicator(user=User(username="ada")) as ada,
            PubSubCommunicator() as nobody,
        ):
            await ada.subscribe("users.ada")
            with pytest.raises(Refused) as refused:
                await ada.subscribe("users.bob")
            assert (refused.value.code, refused.value.reason) == (
                "forbidden",
                "not allowed to subscribe to 'users.bob'",
            )
            with pytest.raises(Refused, match="forbidden"):
                await nobody.subscribe("users.ada")

    async def test_a_bad_request_is_refused_and_the_next_one_answered(self) -> None:
        async with PubSubCommunicator() as client:
            with pytest.raises(Refused, match="invalid_topic"):
                await client.subscribe("a..b")
            await client.subscribe("a.b")

    @override_settings(DWSPS={"ALLOWED_ORIGINS": ["https://example.com"]})
    async def test_a_refused_connection_raises(self) -> None:
        with pytest.raises(Closed) as closed:
            async with PubSubCommunicator(headers=[(b"origin", b"https://evil.example")]):
                pytest.fail("was connected")
        assert closed.value.code == 4003
        async with PubSubCommunicator(headers=[(b"origin", b"https://example.com")]) as client:
            await client.subscribe("a")

    async def test_a_connection_that_the_server_closes_raises(self) -> None:
        async with PubSubCommunicator() as client:
            server = await runtime.obtain()
            [session] = server.sessions
            session.close(CloseCode.GOING_AWAY, Unavailable("the server is going away"))
            with pytest.raises(Closed, match="4200"):
                await client.receive()

    async def test_what_the_application_raises_is_raised(self) -> None:
        async def broken(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            raise SynchronousOnlyOperation("a bug of the project's")

        with pytest.raises(SynchronousOnlyOperation):
            async with PubSubCommunicator(broken) as client:
                await client.subscribe("a")

    async def test_a_message_that_never_comes_is_a_timeout(self) -> None:
        async with PubSubCommunicator() as client:
            client._timeout = 0.05
            with pytest.raises(TimeoutError):
                await client.receive()
            client._timeout = 60
            await client.subscribe("a")

    async def test_each_call_waits_for_as_long_as_was_said(self) -> None:
        """The methods of Channels' communicator as well, whose own default is a second."""
        waited: set[float | None] = set()

        class Recording(PubSubCommunicator):
            async def receive_output(self, timeout: float | None = None) -> dict[str, Any]:
                waited.add(timeout)
                return await super().receive_output(timeout)

            async def wait(self, timeout: float = 1) -> None:
                waited.add(timeout)
                await super().wait(timeout)

        client = Recording(timeout=30)
        await client.connect()
        for receive in (client.receive_json_from, client.receive_from):
            await client.send_json_to({"type": "unsubscribe", "topic": "a"})
            await receive()
        await client.disconnect()
        assert waited == {30}

    async def test_an_application_that_ends_without_a_word_is_closed(self) -> None:
        async def silent(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})

        async with PubSubCommunicator(silent) as client:
            with pytest.raises(Closed, match="1006"):
                await client.receive()

    @pytest.mark.django_db(transaction=True)
    async def test_it_takes_an_application_of_the_projects(self) -> None:
        application = AuthMiddlewareStack(PubSubConsumer.as_asgi())
        async with PubSubCommunicator(application, "/anywhere/") as client:
            await client.subscribe("a")

    async def test_it_is_channels_communicator(self) -> None:
        async with PubSubCommunicator() as client:
            assert isinstance(client, WebsocketCommunicator)
            await client.send_to(text_data="no JSON")
            assert (await client.receive_json_from(5))["code"] == "invalid_json"


def test_djangos_runner_keeps_its_connection_and_can_drop_its_database(postgres: Postgres) -> None:
    """Not with SQLite in memory, where a connection that is closed stays open."""
    environment = base_environment(Path()) | {"DATABASE_URL": postgres.url}
    said = manage("test", "tests.of_a_project", "--noinput", env=environment)
    assert "Found 3 test(s)." in said  # and none failed, which the status says
