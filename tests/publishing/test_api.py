"""``publish`` and ``apublish``, from wherever Django code runs."""

import asyncio
import datetime
import decimal
import logging
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.testing import ApplicationCommunicator
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.signals import request_started
from django.db import transaction
from django.db.transaction import TransactionManagementError
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path

from dwsps_channels import apublish, publish
from dwsps_channels.broker.backends import MemoryBackend
from dwsps_channels.broker.memory import MemoryBroker
from dwsps_channels.broker.sending.send_queue import refused
from dwsps_channels.exceptions import InvalidKey, InvalidPayload, NotServing
from dwsps_channels.protocol.errors import (
    InvalidTopic,
    MessageTooDeep,
    MessageTooLarge,
    Unavailable,
)
from dwsps_channels.publishing import PublishResult, local
from dwsps_channels.publishing.losses import losses
from dwsps_channels.server import runtime
from dwsps_channels.testing import PubSubCommunicator, real_publishes
from tests.connections.transports.contract import until
from tests.processes import HOST, ROOT, base_environment, free_port
from tests.reached import reached

pytestmark = pytest.mark.usefixtures("long_timeout")


@pytest.fixture
async def client() -> AsyncIterator[PubSubCommunicator]:
    """Subscribed to ``news``."""
    async with PubSubCommunicator() as client:
        await client.subscribe("news")
        yield client


@pytest.fixture(autouse=True)
def nothing_lost() -> Iterator[None]:
    """The log tells of the first loss at once, and of the next ones later."""
    losses.forget()
    yield
    losses.forget()


def lost(caplog: pytest.LogCaptureFixture) -> list[str]:
    """All that was logged: it tells of what was lost."""
    assert {(each.levelno, each.name) for each in caplog.records} <= {
        (logging.WARNING, "dwsps_channels.publishing")
    }
    return [each.getMessage() for each in caplog.records]


async def in_thread(function: Callable[[], Any]) -> Any:
    return await sync_to_async(function)()


class TestFromAnywhere:
    async def test_async_code_of_the_loop(self, client: PubSubCommunicator) -> None:
        assert reached(await apublish("news.uk", {"a": 1})) == 1
        delivery = await client.receive()
        assert (delivery["topic"], delivery["context"], delivery["message"]) == (
            "news.uk",
            "news",
            {"a": 1},
        )

    async def test_plain_code_of_the_loop(self, client: PubSubCommunicator) -> None:
        assert reached(publish("news", 1)) == 1
        assert (await client.receive())["message"] == 1

    async def test_a_thread(self, client: PubSubCommunicator) -> None:
        assert reached(await in_thread(lambda: publish("news", 1, on_commit=False))) == 1
        assert (await client.receive())["message"] == 1

    async def test_a_thread_of_the_projects_own(self, client: PubSubCommunicator) -> None:
        results: list[PublishResult | None] = []
        thread = threading.Thread(
            target=lambda: results.append(publish("news", 1, on_commit=False))
        )
        thread.start()
        assert (await client.receive())["message"] == 1
        await until(lambda: [reached(result) for result in results] == [1])
        thread.join()

    async def test_async_code_of_another_loop(self, client: PubSubCommunicator) -> None:
        def run() -> PublishResult:
            return asyncio.run(apublish("news", 1))

        assert reached(await asyncio.to_thread(run)) == 1
        assert (await client.receive())["message"] == 1

    async def test_plain_code_of_another_loop(self, client: PubSubCommunicator) -> None:
        async def call() -> PublishResult | None:
            return publish("news", 1, on_commit=False)

        assert reached(await asyncio.to_thread(lambda: asyncio.run(call()))) == 1
        assert (await client.receive())["message"] == 1

    async def test_async_code_that_plain_code_calls(self, client: PubSubCommunicator) -> None:
        assert reached(await in_thread(lambda: async_to_sync(apublish)("news", 1))) == 1
        assert (await client.receive())["message"] == 1

    async def test_what_one_publishes_comes_in_order(self, client: PubSubCommunicator) -> None:
        def run() -> None:
            for number in range(20):
                publish("news", number, on_commit=False)

        await in_thread(run)
        assert [(await client.receive())["message"] for _ in range(20)] == list(range(20))


class TestKeys:
    async def test_a_key_is_published_once(self, client: PubSubCommunicator) -> None:
        first = await apublish("news", "first", key="k")
        assert first.reached == 1
        for again in (
            await apublish("news", "again", key="k"),
            publish("news", "again", key="k"),
            await in_thread(lambda: publish("news.uk", "again", on_commit=False, key="k")),
        ):
            assert again == PublishResult(reached=0, offset=first.offset)
        other = await apublish("news", "other", key="l")
        assert first.offset is not None
        assert other.offset == first.offset + 1
        assert [(await client.receive())["message"] for _ in range(2)] == ["first", "other"]
        assert await client.received_nothing()

    @pytest.mark.django_db(transaction=True)
    async def test_it_is_published_once_on_commit_too(self, client: PubSubCommunicator) -> None:
        def run() -> None:
            for number in range(2):
                with transaction.atomic():
                    assert publish("news", number, key="k") is None

        await in_thread(run)
        assert (await client.receive())["message"] == 0
        assert await client.received_nothing()

    async def test_without_a_key_each_is_published(self, client: PubSubCommunicator) -> None:
        for _ in range(2):
            await apublish("news", 1)
        assert [(await client.receive())["message"] for _ in range(2)] == [1, 1]


class TestReached:
    async def test_nobody(self) -> None:
        await runtime.obtain()
        assert reached(await apublish("a", 1)) == 0

    async def test_a_session_counts_once_whatever_it_is_subscribed_to(self) -> None:
        async with (
            PubSubCommunicator() as one,
            PubSubCommunicator() as two,
            PubSubCommunicator() as three,
        ):
            await one.subscribe("a")
            await one.subscribe("a.b")
            await two.subscribe("a")
            await three.subscribe("a.b.c")
            assert reached(await apublish("a.b", 1)) == 2
            assert reached(publish("a.b.c", 1)) == 3
            assert reached(await in_thread(lambda: publish("ab", 1, on_commit=False))) == 0

    async def test_the_policy_is_not_asked(self, client: PubSubCommunicator) -> None:
        with override_settings(DWSPS={"POLICY": "dwsps_channels.policies.ReadOnly"}):
            assert reached(await apublish("news", 1)) == 1


@pytest.mark.django_db(transaction=True)
class TestTransactions:
    async def test_it_publishes_on_commit(self, client: PubSubCommunicator) -> None:
        def run() -> None:
            with transaction.atomic():
                assert publish("news", "on commit") is None
                assert reached(publish("news", "at once", on_commit=False)) == 1

        await in_thread(run)
        assert [(await client.receive())["message"] for _ in range(2)] == ["at once", "on commit"]

    async def test_a_rollback_publishes_nothing(self, client: PubSubCommunicator) -> None:
        def run() -> None:
            with transaction.atomic():
                publish("news", "never")
                publish("news", "at once", on_commit=False)
                transaction.set_rollback(True)

        await in_thread(run)
        assert (await client.receive())["message"] == "at once"
        assert await client.received_nothing()

    async def test_a_savepoint_that_is_rolled_back_publishes_nothing(
        self, client: PubSubCommunicator
    ) -> None:
        def run() -> None:
            with transaction.atomic():
                publish("news", 1)
                with transaction.atomic():
                    publish("news", "never")
                    transaction.set_rollback(True)
                with transaction.atomic():
                    publish("news", 2)
                publish("news", 3)

        await in_thread(run)
        assert [(await client.receive())["message"] for _ in range(3)] == [1, 2, 3]
        assert await client.received_nothing()

    async def test_what_is_published_is_what_was_given(self, client: PubSubCommunicator) -> None:
        def run() -> None:
            message = {"state": "given"}
            with transaction.atomic():
                publish("news", message)
                message["state"] = "changed since"

        await in_thread(run)
        assert (await client.receive())["message"] == {"state": "given"}

    async def test_bad_arguments_raise_where_they_are_given(
        self, client: PubSubCommunicator
    ) -> None:
        def run() -> None:
            with transaction.atomic():
                with pytest.raises(InvalidTopic):
                    publish("news..uk", 1)
                with pytest.raises(InvalidPayload):
                    publish("news", float("nan"))
                publish("news", "fine")

        await in_thread(run)
        assert (await client.receive())["message"] == "fine"

    async def test_the_other_databases_transactions_do_not_matter(
        self, client: PubSubCommunicator
    ) -> None:
        def run() -> None:
            with transaction.atomic(using="default"):
                assert publish("news", 1, using="default") is None

        await in_thread(run)
        assert (await client.receive())["message"] == 1

    async def test_a_transaction_made_by_hand_is_refused(self, client: PubSubCommunicator) -> None:
        def run() -> None:
            transaction.get_connection().ensure_connection()
            transaction.set_autocommit(False)
            try:
                with pytest.raises(TransactionManagementError, match=r"'default'.*on_commit=False"):
                    publish("news", "never")
                with transaction.atomic():
                    assert publish("news", "rolled back") is None
                transaction.rollback()
                assert reached(publish("news", "at once", on_commit=False)) == 1
            finally:
                transaction.set_autocommit(True)

        await in_thread(run)
        assert (await client.receive())["message"] == "at once"
        assert await client.received_nothing()

    async def test_a_broker_that_fails_on_commit_is_logged_and_the_rest_of_the_commit_runs(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        committed: list[str] = []

        def run() -> None:
            with transaction.atomic():
                publish("news", 1)
                transaction.on_commit(lambda: committed.append("the rest"))

        async with serving_with(FailingBroker()):
            await in_thread(run)
        assert committed == ["the rest"]
        assert lost(caplog) == [
            "publish() lost messages: 1, 1 since the start: the others are away (1)"
        ]


IN_OTHER_DATABASES = """
import django
from project import settings

memory = settings.DATABASES["default"] | {"NAME": ":memory:"}
settings.DATABASES = {"default": {}, "main": memory, "other": memory}
django.setup()

from django.db import transaction
from dwsps_channels import publish
from dwsps_channels.testing import capture_publishes

with capture_publishes() as published:
    publish("news", "in none")
    with transaction.atomic(using="main"):
        assert publish("news", "on commit") is None
        with transaction.atomic(using="other"):
            assert publish("news", "of the other", using="other") is None
        publish("news", "never", using="main")
        print([message for _, message in published])
        transaction.set_rollback(True, using="main")
print([message for _, message in published])
with capture_publishes() as published, transaction.atomic(using="other"):
    publish("news", "on commit")
    print(published)
print([message for _, message in published])
"""


def test_without_a_default_database_the_one_in_a_transaction_counts(database: Path) -> None:
    env = base_environment(database)
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", IN_OTHER_DATABASES],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (ran.stdout.splitlines(), ran.stderr) == (
        ["['in none', 'of the other']", "['in none', 'of the other']", "[]", "['on commit']"],
        "",
    )


class TestBadArguments:
    @pytest.mark.parametrize(
        "topic", ["", ".", "a..b", "a b", "a\n", "\ud800", "a" * 256, None, 1, b"a", ["a"]]
    )
    async def test_a_bad_topic_raises_at_once(self, topic: Any) -> None:
        with pytest.raises(InvalidTopic, match="the topic ") as raised:
            publish(topic, 1)
        assert isinstance(raised.value, ValueError)
        with pytest.raises(InvalidTopic):
            await apublish(topic, 1)

    @pytest.mark.parametrize("key", ["", "k" * 65, "\ud800", 1, b"key", ["key"]])
    async def test_a_bad_key_raises_at_once(self, key: Any) -> None:
        with pytest.raises(InvalidKey, match="'key' must be a string of 1 to 64 characters"):
            publish("a", 1, key=key)
        with pytest.raises(InvalidKey):
            await apublish("a", 1, key=key)

    @staticmethod
    def circular() -> list[Any]:
        message: list[Any] = []
        message.append(message)
        return message

    @staticmethod
    def deep() -> list[Any]:
        message: list[Any] = []
        for _ in range(100_000):
            message = [message]
        return message

    @pytest.mark.parametrize(
        "make",
        [
            lambda: float("nan"),
            lambda: {"a": [float("inf")]},
            lambda: object(),
            lambda: {1, 2},
            lambda: b"bytes",
            lambda: {(1, 2): 3},
            circular,
        ],
    )
    async def test_a_message_that_json_cannot_say_raises_at_once(
        self, make: Callable[[], Any]
    ) -> None:
        message = make()
        with pytest.raises(InvalidPayload, match="'message' cannot be made JSON: ") as raised:
            publish("a", message)
        assert raised.value.field == "message"
        assert isinstance(raised.value, ValueError)
        with pytest.raises(InvalidPayload):
            await apublish("a", message)

    @override_settings(DWSPS={"MAX_MESSAGE_BYTES": 10})
    async def test_a_message_that_is_too_large_raises_at_once(self) -> None:
        await runtime.obtain()
        assert reached(publish("a", "x" * 8)) == 0
        with pytest.raises(MessageTooLarge) as raised:
            publish("a", "ü" * 5)
        assert (raised.value.size, raised.value.limit) == (12, 10)
        assert isinstance(raised.value, ValueError)

    @override_settings(DWSPS={"MAX_MESSAGE_DEPTH": 2})
    async def test_a_message_that_is_nested_too_deeply_raises_at_once(self) -> None:
        await runtime.obtain()
        assert reached(publish("a", [[1], [2]])) == 0
        for message in ([[[1]]], self.deep()):
            with pytest.raises(MessageTooDeep) as raised:
                publish("a", message)
            assert raised.value.limit == 2
            assert isinstance(raised.value, ValueError)
            with pytest.raises(MessageTooDeep):
                await apublish("a", message)

    @pytest.mark.parametrize(
        ("message", "received"),
        [
            (None, None),
            (10**30, 10**30),
            ("größe ☃ 😀", "größe ☃ 😀"),
            # Halves of characters, as what JavaScript has cut may end with.
            ({"\udfff": ["\ud800", "x\udc00y"]}, {"\udfff": ["\ud800", "x\udc00y"]}),
            ((1, 2), [1, 2]),
            ({1: None}, {"1": None}),
            (decimal.Decimal("1.10"), "1.10"),
            (datetime.date(2020, 1, 21), "2020-01-21"),
            (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ],
    )
    async def test_all_that_django_can_make_json_of_arrives(
        self, message: Any, received: Any, client: PubSubCommunicator
    ) -> None:
        assert reached(await apublish("news", message)) == 1
        assert (await client.receive())["message"] == received


@pytest.fixture
def nobody_serves() -> Iterator[str]:
    """SERVER_URL leads to a port on which nobody listens."""
    url = f"ws://{HOST}:{free_port()}/ws/pubsub/"
    with override_settings(DWSPS={"SERVER_URL": url}), real_publishes():
        yield url


@pytest.mark.usefixtures("nobody_serves")
class TestNotServing:
    """tests/remote has what becomes of it where somebody else serves."""

    def test_a_loop_that_has_ended_serves_no_more(self) -> None:
        async def serve() -> None:
            await runtime.obtain()
            assert reached(await apublish("a", 1)) == 0

        asyncio.run(serve())
        with pytest.raises(NotServing):
            publish("a", 1)
        with pytest.raises(NotServing):
            asyncio.run(apublish("a", 1))

    @pytest.mark.django_db(transaction=True)
    def test_inside_a_transaction_it_is_logged_on_commit(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with transaction.atomic():
            assert publish("a", 1) is None
            assert publish("a", 2) is None
            assert lost(caplog) == []
        assert losses.total == 2
        [line] = lost(caplog)
        assert "publish() lost messages: 1, 1 since the start: connection refused" in line

    async def test_what_is_wrong_with_the_arguments_is_told_first(self) -> None:
        with pytest.raises(InvalidTopic):
            publish("", 1)


def publishing_view(request: HttpRequest) -> HttpResponse:
    try:
        return HttpResponse(f"reached {reached(publish('a', 1))}")
    except NotServing:
        return HttpResponse("not serving")


urlpatterns = [path("", publishing_view)]


@pytest.mark.usefixtures("nobody_serves")
class TestFirstRequest:
    @pytest.fixture(autouse=True)
    def routes(self) -> Iterator[None]:
        with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[], ALLOWED_HOSTS=["*"]):
            yield
        request_started.disconnect(runtime._start_with_request, sender=ASGIHandler)

    @pytest.mark.django_db(transaction=True)
    async def test_a_view_publishes_before_anybody_has_connected(self) -> None:
        runtime.start_with_first_request()
        assert runtime.current() is None
        assert await page() == b"reached 0"

    @pytest.mark.django_db(transaction=True)
    async def test_without_a_websocket_route_the_process_serves_none(self) -> None:
        assert await page() == b"not serving"

    @pytest.mark.django_db(transaction=True)
    async def test_a_server_that_cannot_start_does_not_take_the_page_with_it(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        runtime.start_with_first_request()
        with override_settings(DWSPS={**settings.DWSPS, "POLICY": "no.such.Policy"}):
            assert await page() == b"not serving"
        assert "the publish/subscribe server could not be started" in [
            record.getMessage() for record in caplog.records
        ]


class SlowBroker(MemoryBroker):
    """Accepts when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.accepts: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def publish(self, publication: Any, key: str = "") -> Any:
        return self.accepts


class StartingBroker(MemoryBroker):
    """Takes its time to start, and takes nothing before."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.may_start = asyncio.Event()

    async def start(self, receiver: Any) -> None:
        self.begun.set()
        await self.may_start.wait()
        await super().start(receiver)

    def publish(self, publication: Any, key: str = "") -> Any:
        if not self.may_start.is_set():
            return FailingBroker().publish(publication, key)
        return super().publish(publication, key)


class FailingBroker(MemoryBroker):
    def publish(self, publication: Any, key: str = "") -> Any:
        return refused("the others are away")


@asynccontextmanager
async def serving_with(broker: Any) -> AsyncIterator[None]:
    """A runtime on ``broker``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryBackend, "make_broker", lambda self: broker)
        await runtime.obtain()
        yield


class TestOtherProcesses:
    async def test_apublish_returns_once_the_broker_has_accepted(self) -> None:
        broker = SlowBroker()
        async with serving_with(broker):
            task = asyncio.create_task(apublish("a", 1))
            await asyncio.sleep(0)
            assert not task.done()
            broker.accepts.set_result(None)
            assert reached(await task) == 0

    async def test_so_does_publish_in_a_thread(self) -> None:
        broker = SlowBroker()
        async with serving_with(broker):
            task = asyncio.create_task(in_thread(lambda: publish("a", 1, on_commit=False)))
            await asyncio.sleep(0)
            assert not task.done()
            broker.accepts.set_result(None)
            assert reached(await task) == 0

    async def test_publish_in_the_loop_does_not_wait(self) -> None:
        broker = SlowBroker()
        async with serving_with(broker):
            assert reached(publish("a", 1)) == 0
            broker.accepts.set_result(None)
            await until(lambda: not local._under_way)

    async def test_what_the_broker_refuses_is_raised_where_it_can_be(self) -> None:
        async with serving_with(FailingBroker()):
            with pytest.raises(Unavailable, match="the others are away"):
                await apublish("a", 1)
            with pytest.raises(Unavailable, match="the others are away"):
                await in_thread(lambda: publish("a", 1, on_commit=False))

    async def test_and_logged_where_it_cannot(self, caplog: pytest.LogCaptureFixture) -> None:
        async with serving_with(FailingBroker()):
            assert reached(publish("a", 1)) == 0
            await until(lambda: not local._under_way)
        assert lost(caplog) == [
            "publish() lost messages: 1, 1 since the start: the others are away (1)"
        ]

    @pytest.mark.parametrize("call", [apublish, lambda *args: in_thread(lambda: publish(*args))])
    async def test_who_does_not_answer_is_waited_for_until_the_deadline(
        self, call: Callable[..., Awaitable[Any]], caplog: pytest.LogCaptureFixture
    ) -> None:
        with override_settings(DWSPS={"PUBLISH_TIMEOUT": 0.1}):
            async with serving_with(SlowBroker()), asyncio.timeout(20):
                with pytest.raises(Unavailable, match=r"within 0.1 s"):
                    await call("a", 1)
        assert losses.total == 1
        [line] = lost(caplog)
        assert line.endswith("the server's processes did not get it within 0.1 s (1)")

    @pytest.mark.parametrize("call", [apublish, lambda *args: in_thread(lambda: publish(*args))])
    async def test_a_server_that_is_starting_is_waited_for(
        self, call: Callable[..., Awaitable[Any]]
    ) -> None:
        broker = StartingBroker()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemoryBackend, "make_broker", lambda self: broker)
            starting = asyncio.create_task(runtime.obtain())
            await broker.begun.wait()
            publishing: asyncio.Future[Any] = asyncio.ensure_future(call("a", 1))
            done, _ = await asyncio.wait([publishing], timeout=0.05)
            assert not done
            broker.may_start.set()
            assert reached(await publishing) == 0
            await starting

    async def test_so_is_an_event_loop_that_is_busy(self) -> None:
        with override_settings(DWSPS={"PUBLISH_TIMEOUT": 0.1}):
            async with PubSubCommunicator() as client:
                await client.subscribe("a")
                raised: list[Exception] = []

                def work() -> None:
                    try:
                        publish("a", 1)
                    except Exception as error:
                        raised.append(error)

                thread = threading.Thread(target=work)
                thread.start()
                thread.join(20)  # which blocks the loop
                assert [type(error) for error in raised] == [Unavailable]
                assert await client.received_nothing()  # later either

    async def test_what_the_broker_refuses_reaches_this_processes_sessions_neither(self) -> None:
        async with serving_with(FailingBroker()), PubSubCommunicator() as client:
            await client.subscribe("a")
            with pytest.raises(Unavailable):
                await apublish("a", 1)
            assert await client.received_nothing()


async def page() -> bytes:
    """Return the response of Django, as an ASGI application."""
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    django: Any = ASGIHandler()
    browser = ApplicationCommunicator(django, scope)  # type: ignore[no-untyped-call]
    await browser.send_input({"type": "http.request", "body": b""})
    await browser.receive_output(20)
    body: bytes = (await browser.receive_output(20))["body"]
    await browser.wait(20)
    return body
