"""The sweeper, as the worker runs it."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.test import override_settings

from dwsps_channels.durable import sweeper as sweeper_module
from dwsps_channels.durable.sweep import Swept, sweep
from dwsps_channels.durable.sweeper import Sweeper
from dwsps_channels.exceptions import MessageTooLarge, Unavailable
from dwsps_channels.models import DurableMessageQuerySet
from dwsps_channels.publishing.publisher import Publisher
from tests.durable.publishers import ScriptedPublisher
from tests.durable.rows import leave, topics
from tests.processes import wait_until_async

pytestmark = pytest.mark.django_db(transaction=True)

Run = Callable[[ScriptedPublisher], "asyncio.Task[None]"]


@pytest.fixture(autouse=True)
def short_pauses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    monkeypatch.setattr(sweeper_module, "SWEEP_INTERVAL", 0.01)
    with caplog.at_level(logging.INFO, "dwsps_channels.durable"):
        yield


async def in_thread(function: Callable[[], Any]) -> Any:
    return await database_sync_to_async(function)()


def sweeper_with(publisher: ScriptedPublisher) -> Sweeper:
    async def choose() -> Publisher:
        return publisher

    return Sweeper(choose)


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    tasks: list[asyncio.Task[None]] = []

    def run(publisher: ScriptedPublisher) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(sweeper_with(publisher).run()))
        return tasks[-1]

    yield run
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records]


async def test_what_is_due_is_published_and_what_becomes_due_later(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = ScriptedPublisher()
    await in_thread(lambda: leave("first"))
    run(publisher)
    await wait_until_async(lambda: publisher.topics == ["first"])
    await in_thread(lambda: leave("second"))
    await wait_until_async(lambda: publisher.topics == ["first", "second"])

    async def none_is_left() -> bool:
        left: list[str] = await in_thread(topics)
        return left == []

    await wait_until_async(none_is_left)
    assert set(lines(caplog)) == {
        "published durable messages that their process had not published: 1"
    }


async def test_it_is_wanted_if_something_is_due() -> None:
    sweeper = sweeper_with(ScriptedPublisher())
    assert not await sweeper.is_wanted()
    await in_thread(lambda: leave("fresh", due_at=Now() + timedelta(seconds=3)))
    assert not await sweeper.is_wanted()
    await in_thread(lambda: leave("due"))
    assert await sweeper.is_wanted()


async def test_a_database_that_fails_is_not_taken_for_one_without_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweeper = sweeper_with(ScriptedPublisher())
    assert not await sweeper.is_wanted()

    def fail(database: str) -> bool:
        raise OperationalError("gone away")

    monkeypatch.setattr(sweeper_module, "CARE_INTERVAL", 0.0)
    monkeypatch.setattr(sweeper_module, "has_table", fail)
    await in_thread(lambda: leave("due"))
    assert await sweeper.is_wanted()


async def test_a_look_leaves_no_transaction_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a database whose settings turn autocommit off, the next look would see what this one saw."""
    sweeper = sweeper_with(ScriptedPublisher())
    commits: list[bool] = []
    due = DurableMessageQuerySet.due

    def looking(rows: DurableMessageQuerySet) -> DurableMessageQuerySet:
        commits.append(connection.get_autocommit())
        return due(rows)

    monkeypatch.setattr(DurableMessageQuerySet, "due", looking)
    monkeypatch.setitem(connection.settings_dict, "AUTOCOMMIT", False)
    assert not await sweeper.is_wanted()
    assert commits == [True]


async def test_a_server_that_is_away_is_logged_once(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def away(message: object) -> None:
        raise Unavailable("nobody is there")

    publisher = ScriptedPublisher(away)
    await in_thread(lambda: [leave("a", age=20), leave("b", age=10)])
    run(publisher)
    await wait_until_async(lambda: len(publisher.published) >= 2)
    assert lines(caplog) == ["durable messages wait, as they cannot be published: nobody is there"]
    assert await in_thread(topics) == ["a", "b"]


async def test_while_the_server_is_away_one_message_at_a_time_is_tried(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[int] = []

    def does(message: object) -> None:
        # Counted here: sweeps go on while the event loop stands still, and each puts off another message.
        if len(publisher.published) <= 4:
            raise Unavailable("nobody is there")

    def noting(*args: Any, **kwargs: Any) -> Swept:
        swept = sweep(*args, **kwargs)
        claimed.append(swept.sent + bool(swept.problem) + len(swept.left))
        return swept

    monkeypatch.setattr(sweeper_module, "sweep", noting)
    publisher = ScriptedPublisher(does)
    await in_thread(lambda: [leave(f"n{number}", age=60 - number) for number in range(20)])
    run(publisher)
    await wait_until_async(lambda: len(claimed) >= 6)
    assert claimed[:5] == [20, 1, 1, 1, 1]
    assert claimed[5] >= 15  # the first answer ends it


async def test_what_is_refused_is_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(message: object) -> None:
        raise MessageTooLarge(20, 10)

    await in_thread(lambda: leave("a"))
    run(ScriptedPublisher(refuse))
    await wait_until_async(lambda: bool(caplog.records))
    assert lines(caplog) == [
        "durable messages refused, see 'manage.py durable list': 1: the message has 20 bytes, the limit is 10"
    ]


async def test_what_is_too_old_is_dropped_and_said(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = ScriptedPublisher()
    await in_thread(lambda: [leave("old", age=101), leave("young", age=50)])
    with override_settings(DWSPS={"DURABLE_MAX_AGE": 100}):
        run(publisher)
        await wait_until_async(lambda: bool(publisher.topics))
    assert publisher.topics == ["young"]
    assert lines(caplog)[0] == (
        "durable messages dropped, as they had waited longer than DURABLE_MAX_AGE, 100 s: 1"
    )


async def test_a_database_that_fails_is_asked_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([OperationalError("gone away")] * 3)
    due = DurableMessageQuerySet.due

    def failing(rows: DurableMessageQuerySet) -> DurableMessageQuerySet:
        for error in failures:
            raise error
        return due(rows)

    monkeypatch.setattr(DurableMessageQuerySet, "due", failing)
    publisher = ScriptedPublisher()
    await in_thread(lambda: leave("a"))
    run(publisher)
    await wait_until_async(lambda: publisher.topics == ["a"])
    assert lines(caplog)[0] == (
        "the database 'default' cannot be asked for durable messages: gone away"
    )
    assert sum("gone away" in line for line in lines(caplog)) == 1


async def test_a_server_that_cannot_start_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    publisher = ScriptedPublisher()
    failures = iter([RuntimeError("cannot start")] * 2)

    async def choose() -> Publisher:
        for error in failures:
            raise error
        return publisher

    await in_thread(lambda: leave("a"))
    task = asyncio.create_task(Sweeper(choose).run())
    await wait_until_async(lambda: publisher.topics == ["a"])
    task.cancel()
    await asyncio.wait([task])
    assert lines(caplog)[0] == "durable messages wait, as they cannot be published"


async def test_cancelled_it_ends_after_the_message_that_is_being_published() -> None:
    goes_on = threading.Event()
    publisher = ScriptedPublisher(lambda message: goes_on.wait(10))
    await in_thread(lambda: [leave("a", age=20), leave("b", age=10)])
    sweeper = sweeper_with(publisher)
    task = asyncio.create_task(sweeper.run())
    await wait_until_async(lambda: publisher.topics == ["a"])
    task.cancel()
    await wait_until_async(sweeper._stopping.is_set)
    goes_on.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert publisher.topics == ["a"]
    assert await in_thread(topics) == ["b"]
