"""Durable messages, until they are published: in the transaction of the caller, and after its commit."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connection, transaction
from django.test import override_settings

from dwsps_channels import apublish, publish
from dwsps_channels.exceptions import InvalidTopic, NotServing
from dwsps_channels.models import DurableMessage, DurableMessageQuerySet
from dwsps_channels.publishing.choice import choose_publisher
from dwsps_channels.publishing.losses import delays, losses
from dwsps_channels.publishing.publisher import PublishResult
from dwsps_channels.testing import PubSubCommunicator, capture_publishes, outbox, real_publishes
from tests.processes import HOST, free_port
from tests.publishing.test_api import FailingBroker, SlowBroker, serving_with
from tests.reached import reached

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("long_timeout")]


@pytest.fixture(autouse=True)
def nothing_failed() -> Iterator[None]:
    losses.forget()
    delays.forget()
    yield
    losses.forget()
    delays.forget()


def stored() -> list[str]:
    """The topics of what waits in the database."""
    return list(DurableMessage.objects.order_by("created_at").values_list("topic", flat=True))


async def in_thread(function: Callable[[], Any]) -> Any:
    return await sync_to_async(function)()


class TestCommit:
    async def test_it_is_stored_in_the_transaction_and_published_on_commit(self) -> None:
        def run() -> None:
            with transaction.atomic():
                assert publish("news", {"a": 1}, durable=True) is None
                row = DurableMessage.objects.get()
                assert (row.topic, bytes(row.message), row.attempts) == ("news", b'{"a":1}', 0)
                # The process itself has PUBLISH_TIMEOUT for it, and a little more.
                assert 20.5 < (row.due_at - row.created_at).total_seconds() < 21.5
            assert stored() == []

        async with PubSubCommunicator() as client:
            await client.subscribe("news")
            await in_thread(run)
            delivery = await client.receive()
            assert (delivery["topic"], delivery["message"]) == ("news", {"a": 1})
            assert await client.received_nothing()

    def test_a_rollback_leaves_no_row_and_publishes_nothing(self) -> None:
        with transaction.atomic():
            publish("news", 1, durable=True)
            transaction.set_rollback(True)
        assert (stored(), list(outbox)) == ([], [])

    def test_so_does_a_savepoint_that_is_rolled_back(self) -> None:
        with transaction.atomic():
            publish("a", 1, durable=True)
            with transaction.atomic():
                publish("b", "never", durable=True)
                transaction.set_rollback(True)
            with transaction.atomic():
                publish("c", 2, durable=True)
            assert stored() == ["a", "c"]
        assert outbox == [("a", 1), ("c", 2)]
        assert stored() == []

    def test_without_a_transaction_it_is_published_at_once(self) -> None:
        assert publish("news", 1, durable=True) == PublishResult(reached=0, offset=1)
        assert (stored(), list(outbox)) == ([], [("news", 1)])
        assert outbox[0].durable

    def test_after_autocommit_was_turned_off_it_is_left_to_the_worker(self) -> None:
        connection.ensure_connection()
        transaction.set_autocommit(False)
        try:
            assert publish("rolled.back", 1, durable=True) is None
            transaction.rollback()
            assert publish("news", 1, durable=True) is None
            with transaction.atomic():
                assert publish("inside", 1, durable=True) is None
            transaction.commit()
        finally:
            transaction.set_autocommit(True)
        # Django calls what waits for a commit by hand when autocommit is on again.
        assert (stored(), list(outbox)) == (["news"], [("inside", 1)])

    def test_bad_arguments_raise_at_once_and_store_nothing(self) -> None:
        with transaction.atomic():
            with pytest.raises(InvalidTopic):
                publish("news..uk", 1, durable=True)
            with pytest.raises(ValueError, match="published on commit"):
                publish("news", 1, durable=True, on_commit=False)
        assert (stored(), list(outbox)) == ([], [])

    def test_what_cannot_be_stored_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*args: object, **kwargs: object) -> None:
            raise OperationalError("disk full")

        monkeypatch.setattr(DurableMessageQuerySet, "create", fail)
        with pytest.raises(OperationalError, match="disk full"):
            publish("news", 1, durable=True)
        assert outbox == []


class NowhereRouter:
    def allow_migrate(self, db: str, app_label: str, **hints: object) -> bool:
        return app_label != "dwsps_channels"


def test_a_database_that_a_router_keeps_the_table_from_is_refused_in_words() -> None:
    with (
        override_settings(DATABASE_ROUTERS=[f"{__name__}.NowhereRouter"]),
        transaction.atomic(),
        pytest.raises(ImproperlyConfigured, match="'default' has no table for durable messages"),
    ):
        publish("news", 1, durable=True)
    assert outbox == []


class TestKeys:
    def test_a_key_is_published_once(self) -> None:
        with transaction.atomic():
            publish("news", "first", durable=True, key="k")
            publish("news", "again", durable=True, key="k")
            assert len(stored()) == 1
        assert publish("news", "again", durable=True, key="k") == PublishResult(reached=0, offset=1)
        assert outbox == [("news", "first")]
        assert (outbox[0].key, outbox[0].durable) == ("k", True)
        assert stored() == []

    def test_the_first_one_that_waits_is_the_message(self) -> None:
        with transaction.atomic():
            publish("news", "first", durable=True, key="k")
            with transaction.atomic():
                publish("other", "second", durable=True, key="k")
        assert outbox == [("news", "first")]

    def test_one_whose_savepoint_was_rolled_back_does_not_count(self) -> None:
        with transaction.atomic():
            with transaction.atomic():
                publish("news", "never", durable=True, key="k")
                transaction.set_rollback(True)
            publish("news", "sent", durable=True, key="k")
        assert outbox == [("news", "sent")]

    async def test_the_log_knows_what_was_published_before(self) -> None:
        async with PubSubCommunicator() as client:
            await client.subscribe("news")
            first = await apublish("news", "first", durable=True, key="k")
            again = await apublish("news", "again", durable=True, key="k")
            apart = await apublish("news", "apart", key="k")
            assert first is not None
            assert again == PublishResult(reached=0, offset=first.offset)
            assert [(await client.receive())["message"] for _ in range(2)] == ["first", "apart"]
            assert apart.offset != first.offset
            assert await client.received_nothing()


async def test_without_a_log_it_is_removed_once_the_broker_has_accepted_it() -> None:
    broker = SlowBroker()
    broker.accepts.set_result(None)
    async with serving_with(broker):
        published = await in_thread(lambda: publish("news", 1, durable=True))
    assert published == PublishResult(reached=0)
    assert await in_thread(stored) == []


class TestFailures:
    async def test_what_the_broker_does_not_take_stays_and_is_no_loss(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def run() -> None:
            with transaction.atomic():
                publish("on.commit", 1, durable=True)
            assert publish("at.once", 1, durable=True) is None

        async with serving_with(FailingBroker()):
            await in_thread(run)
            assert await apublish("async", 1, durable=True) is None
        assert await in_thread(stored) == ["on.commit", "at.once", "async"]
        assert (losses.total, delays.total) == (0, 3)
        assert [each.getMessage() for each in caplog.records] == [
            "publish() left durable messages to the worker: 1, 1 since the start: the others are away (1)"
        ]

    def test_neither_is_a_server_that_cannot_be_reached(self) -> None:
        url = f"ws://{HOST}:{free_port()}/"
        with override_settings(DWSPS={**settings.DWSPS, "SERVER_URL": url}), real_publishes():
            with pytest.raises(NotServing):
                publish("news", 1)
            assert publish("news", 1, durable=True) is None
            assert publish("news", 2, durable=True) is None
        assert stored() == ["news", "news"]
        assert (losses.total, delays.total) == (1, 2)

    def test_a_row_that_cannot_be_removed_is_left_to_the_worker(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: object, **kwargs: object) -> None:
            raise OperationalError("database is locked")

        monkeypatch.setattr(DurableMessageQuerySet, "delete", fail)
        assert reached(publish("news", 1, durable=True)) == 0
        assert (stored(), list(outbox)) == (["news"], [("news", 1)])
        assert (losses.total, delays.total) == (0, 1)

    def test_what_else_waits_for_the_commit_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        committed: list[str] = []
        with capture_publishes(), transaction.atomic():
            publisher = choose_publisher()
            monkeypatch.setattr(type(publisher), "publish", lambda *args: 1 / 0)
            publish("news", 1, durable=True)
            transaction.on_commit(lambda: committed.append("the rest"))
        assert committed == ["the rest"]
        assert stored() == ["news"]


@async_to_sync
async def apublish_in_sync(topic: str, message: Any) -> PublishResult | None:
    return await apublish(topic, message, durable=True)


class TestAsync:
    async def test_it_is_stored_published_and_removed(self) -> None:
        async with PubSubCommunicator() as client:
            await client.subscribe("news")
            assert reached(await apublish("news", 1, durable=True)) == 1
            assert (await client.receive())["message"] == 1
        assert await in_thread(stored) == []

    async def test_a_transaction_of_the_code_that_called_it_counts(self) -> None:
        def run() -> None:
            with transaction.atomic():
                assert apublish_in_sync("news", 1) is None
                assert (len(stored()), list(outbox)) == (1, [])
                transaction.set_rollback(True)
            with transaction.atomic():
                apublish_in_sync("news", 2)

        await in_thread(run)
        assert (await in_thread(stored), list(outbox)) == ([], [("news", 2)])

    async def test_a_bad_topic_raises(self) -> None:
        with pytest.raises(InvalidTopic):
            await apublish("", 1, durable=True)
