"""One sweep of a database: what is sent, kept, postponed and dropped."""

from datetime import timedelta

import pytest
from django.db import OperationalError
from django.db.models.functions import Now
from django.test import override_settings

from dwsps_channels import publish
from dwsps_channels.durable import sweep as sweep_module
from dwsps_channels.durable.sweep import Swept, drop_old, sweep
from dwsps_channels.exceptions import MessageTooLarge, NotServing, Unavailable
from dwsps_channels.models import DurableMessage, DurableMessageQuerySet
from dwsps_channels.publishing.publisher import OutgoingMessage
from dwsps_channels.remote.websocket import RefusedByServer
from dwsps_channels.testing import real_publishes
from tests.durable.publishers import ScriptedPublisher
from tests.durable.rows import leave, topics

pytestmark = pytest.mark.django_db


@pytest.fixture
def publisher() -> ScriptedPublisher:
    return ScriptedPublisher()


def seconds_until_due(topic: str) -> float:
    row = DurableMessage.objects.annotate(now=Now()).get(topic=topic)
    return float((row.due_at - row.now).total_seconds())  # type: ignore[attr-defined]


def raising(error: Exception, *topics: str) -> ScriptedPublisher:
    """A publisher that raises ``error`` for messages to ``topics``; without any for all."""

    def does(message: OutgoingMessage) -> None:
        if not topics or message.topic in topics:
            raise error

    return ScriptedPublisher(does)


class TestSent:
    def test_the_oldest_first_with_their_keys_and_times(self, publisher: ScriptedPublisher) -> None:
        second = leave("b", {"n": 2}, age=20)
        first = leave("a", {"n": 1}, age=30)
        assert sweep("default", publisher) == Swept(sent=2)
        assert [(each.topic, bytes(each.payload)) for each in publisher.published] == [
            ("a", b'{"n":1}'),
            ("b", b'{"n":2}'),
        ]
        assert [each.broker_key for each in publisher.published] == [
            f"durable:{first.id.hex}",
            f"durable:{second.id.hex}",
        ]
        assert publisher.published[0].timestamp == first.timestamp
        assert topics() == []

    def test_those_of_one_millisecond_in_the_order_of_their_publishes(
        self, publisher: ScriptedPublisher
    ) -> None:
        """As SQLite has them if one transaction publishes several."""
        with real_publishes():
            for number in range(20):
                publish("a", number, durable=True)
        DurableMessage.objects.update(
            created_at=Now() - timedelta(seconds=20), due_at=Now() - timedelta(seconds=10)
        )
        assert sweep("default", publisher, limit=10).sent == 10
        assert sweep("default", publisher).sent == 10
        assert [int(bytes(each.payload)) for each in publisher.published] == list(range(20))

    def test_what_its_process_may_still_publish_is_left_alone(
        self, publisher: ScriptedPublisher
    ) -> None:
        leave("fresh", due_at=Now() + timedelta(seconds=3))
        assert sweep("default", publisher) == Swept()
        assert (publisher.published, topics()) == ([], ["fresh"])

    def test_a_batch_at_a_time(
        self, publisher: ScriptedPublisher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sweep_module, "BATCH", 2)
        for number in range(5):
            leave(f"n{number}", age=60 - number)
        outcomes = [sweep("default", publisher) for _ in range(3)]
        assert outcomes == [
            Swept(sent=2),
            Swept(sent=2),
            Swept(sent=1),
        ]
        assert [each.is_complete for each in outcomes] == [False, False, True]
        assert publisher.topics == [f"n{number}" for number in range(5)]

    def test_only_what_is_asked_for(self, publisher: ScriptedPublisher) -> None:
        later = leave("later", due_at=Now() + timedelta(hours=1))
        leave("due")
        assert sweep("default", publisher, [later.pk]) == Swept(sent=1)
        assert publisher.topics == ["later"]

    def test_until_it_is_to_stop(self, publisher: ScriptedPublisher) -> None:
        leave("a", age=20)
        left = leave("b", age=10)
        stopped = sweep("default", publisher, is_stopping=lambda: bool(publisher.published))
        assert stopped == Swept(sent=1, left=(left.pk,))
        assert topics() == ["b"]
        assert DurableMessage.objects.get().attempts == 0
        assert seconds_until_due("b") <= 0

    def test_nothing_if_the_database_takes_no_writes(
        self, publisher: ScriptedPublisher, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a replica that the settings name as a database."""

        def fail(*args: object, **kwargs: object) -> int:
            raise OperationalError("cannot execute UPDATE in a read-only transaction")

        leave("a")
        monkeypatch.setattr(DurableMessageQuerySet, "update", fail)
        with pytest.raises(OperationalError):
            sweep("default", publisher)
        assert publisher.published == []


class TestUnavailable:
    @pytest.mark.parametrize(
        ("error", "problem"),
        [
            (Unavailable("the others are away"), "the others are away"),
            (
                NotServing("ws://a/", "connection refused"),
                "the server cannot be reached: connection refused",
            ),
        ],
    )
    def test_it_ends_and_nothing_is_lost(self, error: Exception, problem: str) -> None:
        publisher = raising(error, "b")
        leave("a", age=30)
        leave("b", age=20)
        left = leave("c", age=10)
        assert sweep("default", publisher) == Swept(sent=1, problem=problem, left=(left.pk,))
        assert (publisher.topics, topics()) == (["a", "b"], ["b", "c"])
        failed, waiting = DurableMessage.objects.order_by("created_at")
        assert (failed.attempts, failed.last_error) == (1, problem)
        assert (waiting.attempts, waiting.last_error) == (0, "")
        assert 0 < seconds_until_due("b") <= 5

    def test_the_next_sweep_begins_with_another(self) -> None:
        leave("a", age=20)
        leave("b", age=10)
        sweep("default", raising(Unavailable("no")))
        publisher = ScriptedPublisher()
        sweep("default", publisher)
        assert (publisher.topics, topics()) == (["b"], ["a"])


class TestRefused:
    @pytest.mark.parametrize(
        "error",
        [MessageTooLarge(10, 5), RefusedByServer("the server refused: too large"), KeyError("bug")],
    )
    def test_it_is_kept_with_the_reason_and_holds_up_no_other(self, error: Exception) -> None:
        publisher = raising(error, "bad")
        leave("bad", age=20)
        leave("good", age=10)
        swept = sweep("default", publisher)
        assert (swept.sent, swept.refused, swept.problem, swept.is_complete) == (1, 1, "", True)
        assert topics() == ["bad"]
        row = DurableMessage.objects.get()
        assert (row.attempts, row.last_error) == (1, swept.refusal)
        assert swept.refusal

    def test_it_is_tried_less_and_less_often(self) -> None:
        publisher = raising(RefusedByServer("no"))
        leave("bad")
        pauses = []
        for _ in range(12):
            DurableMessage.objects.update(due_at=Now())
            assert sweep("default", publisher).refused == 1
            pauses.append(round(seconds_until_due("bad"), -1))
        assert pauses == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]
        assert DurableMessage.objects.get().attempts == 12

    def test_the_settings_of_today_count(self, publisher: ScriptedPublisher) -> None:
        leave("long", "x" * 100)
        leave("deep", [[[1]]])
        leave("b..c")
        with override_settings(DWSPS={"MAX_MESSAGE_BYTES": 50, "MAX_MESSAGE_DEPTH": 2}):
            swept = sweep("default", publisher)
        assert (swept.sent, swept.refused, publisher.published) == (0, 3, [])
        assert set(DurableMessage.objects.values_list("last_error", flat=True)) == {
            "the message has 102 bytes, the limit is 50",
            "the message is nested more than 2 levels deep",
            "the topic has an empty level",
        }


def test_what_is_too_old_is_dropped(publisher: ScriptedPublisher) -> None:
    leave("old", age=101)
    leave("young", age=90)
    with override_settings(DWSPS={"DURABLE_MAX_AGE": 100}):
        assert drop_old("default") == 1
        assert drop_old("default") == 0
    assert topics() == ["young"]


def test_a_replica_with_nothing_too_old_is_not_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> tuple[int, dict[str, int]]:
        raise OperationalError("cannot execute DELETE in a read-only transaction")

    leave("young")
    monkeypatch.setattr(DurableMessageQuerySet, "delete", fail)
    assert drop_old("default") == 0
