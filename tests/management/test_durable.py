"""``manage.py durable``."""

import io
import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from dwsps_channels.durable import sweep
from dwsps_channels.exceptions import Unavailable
from dwsps_channels.management.commands import durable
from dwsps_channels.models import DurableMessage
from dwsps_channels.peering import lease
from dwsps_channels.protocol.errors import MessageTooLarge
from dwsps_channels.testing import outbox
from tests.durable.publishers import ScriptedPublisher
from tests.durable.rows import leave, topics

pytestmark = pytest.mark.django_db

NO_WORKER = "no worker is running: start 'manage.py runpubsub', or publish them with 'manage.py durable send'"


def run(*arguments: str) -> str:
    """Return its output, of both streams."""
    out = io.StringIO()
    call_command("durable", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def failure(*arguments: str) -> str:
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    return str(caught.value)


def test_without_a_table_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "databases_with_table", list)
    for command in (["list"], ["list", "--json"], ["send"], ["remove", "--older-than", "1"]):
        assert failure(*command) == (
            "no database has the table of durable messages: run 'manage.py migrate'"
        )


class TestList:
    def test_nothing_waits(self) -> None:
        assert run("list") == "no durable message waits\n"
        assert json.loads(run("list", "--json")) == []

    def test_how_many_wait_by_topic_and_since_when(self) -> None:
        leave("orders.1", age=50, attempts=2, last_error="too large")
        leave("orders.1", age=200)
        leave("news", age=7300)
        head, *lines = run("list").splitlines()
        assert head.split() == [
            "DATABASE",
            "TOPIC",
            "MESSAGES",
            "OLDEST",
            "ATTEMPTS",
            *["LAST", "ERROR"],
        ]
        assert lines == [
            "default   news      1         2 h     0         -",
            "default   orders.1  2         3 min   2         too large",
            "3 messages wait",
            NO_WORKER,
        ]

    def test_a_running_worker_is_not_missed(self) -> None:
        leave("news")
        lease.acquire("somebody", 60)
        assert run("list").splitlines()[-1] == "1 message waits"

    def test_neither_is_one_that_has_nothing_to_do_yet(self) -> None:
        leave("news", due_at=Now() + timedelta(seconds=60))
        assert run("list").splitlines()[-1] == "1 message waits"

    def test_each_message(self) -> None:
        rows = [leave("a", age=20), leave("b", age=10)]
        head, *lines = run("list", "--ids").splitlines()
        assert head.split()[:3] == ["ID", "TOPIC", "STORED"]
        assert [line.split()[:2] for line in lines[:2]] == [
            [str(row.pk), row.topic] for row in rows
        ]

    def test_for_scripts(self) -> None:
        row = leave("a", attempts=1, last_error="no")
        row.refresh_from_db()
        [found] = json.loads(run("list", "--json"))
        assert 60 <= found.pop("age") < 120
        assert found == {
            "database": "default",
            "topic": "a",
            "messages": 1,
            "oldest_at": row.created_at.isoformat(),
            "attempts": 1,
            "last_error": "no",
        }


class TestSend:
    def test_what_waits_is_published_also_what_is_to_be_tried_later(self) -> None:
        leave("a", age=20)
        leave("b", age=10, attempts=3, due_at=Now() + timedelta(hours=1))
        leave("c", age=0, due_at=Now() + timedelta(seconds=60))
        assert run("send") == "published 2 messages\n"
        assert {each.topic for each in outbox} == {"a", "b"}
        # Its process may be about to publish it.
        assert topics() == ["c"]

    def test_more_than_a_batch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sweep, "BATCH", 2)
        monkeypatch.setattr(durable, "BATCH", 2)
        for number in range(5):
            leave(f"n{number}")
        assert run("send") == "published 5 messages\n"

    @pytest.fixture
    def publisher(self, monkeypatch: pytest.MonkeyPatch) -> ScriptedPublisher:
        publisher = ScriptedPublisher()
        monkeypatch.setattr(durable, "choose_publisher", lambda: publisher)
        return publisher

    def test_a_server_that_is_away_fails_it(self, publisher: ScriptedPublisher) -> None:
        def does(message: Any) -> None:
            raise Unavailable("nobody is there")

        publisher.does = does
        leave("a", age=20)
        leave("b", age=10)
        assert failure("send") == "the rest waits: nobody is there"
        assert (publisher.topics, topics()) == (["a"], ["a", "b"])

    def test_a_message_that_is_refused_fails_it_at_the_end(
        self, publisher: ScriptedPublisher
    ) -> None:
        def does(message: Any) -> None:
            if message.topic == "a":
                raise MessageTooLarge(20, 10)

        publisher.does = does
        leave("a", age=20)
        leave("b", age=10)
        assert failure("send") == "1 message cannot be published: see 'durable list --ids'"
        assert topics() == ["a"]


class TestRemove:
    def test_by_id(self) -> None:
        kept, gone = leave("kept"), leave("gone")
        assert run("remove", str(gone.pk)) == "removed 1 message\n"
        assert DurableMessage.objects.get() == kept

    def test_an_unknown_id_fails_it(self) -> None:
        gone, unknown = leave("gone"), uuid4()
        assert failure("remove", str(gone.pk), str(unknown)) == (
            f"no message with this id waits: {unknown}"
        )
        assert topics() == []

    def test_what_is_older(self) -> None:
        leave("old", age=100)
        leave("young", age=10)
        assert run("remove", "--older-than", "50") == "removed 1 message\n"
        assert topics() == ["young"]

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["abc"],
            *(["--older-than", seconds] for seconds in ("a day", "-5", "nan", "inf", "1e300")),
            [str(uuid4()), "--older-than", "1"],
        ],
    )
    def test_a_wrong_command_line(self, arguments: list[str]) -> None:
        leave("kept")
        assert failure("remove", *arguments).startswith("Error: ")
        assert topics() == ["kept"]
