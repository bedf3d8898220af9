"""The broker on a real database."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.models import F
from django.db.models.functions import Now

from dwsps_channels.broker.database import broker as broker_module
from dwsps_channels.broker.database import connection
from dwsps_channels.broker.database.table import LEASE
from dwsps_channels.core.broker import Repeated
from dwsps_channels.core.keys import server_key
from dwsps_channels.core.retention import Retention
from dwsps_channels.core.timings import Timings
from dwsps_channels.models import Lease, LogEntry, LogState
from dwsps_channels.protocol.errors import Unavailable
from tests.broker.contract import (
    PAYLOADS,
    Join,
    LogContract,
    MakeBroker,
    Member,
    answered,
    publication,
)
from tests.broker.database.databases import ALIAS, broker, database_at
from tests.broker.database.queries import in_thread
from tests.processes import wait_until_async

pytestmark = pytest.mark.processes

Start = Callable[..., Any]


@pytest.fixture
async def start(using: str) -> AsyncIterator[Start]:
    """Starts a broker; ended after the test, if it was not before."""
    members: list[Member] = []

    async def start(**options: Any) -> Member:
        members.append(Member(broker(using, **options)))
        return await members[-1].start()

    yield start
    for member in members:
        await member.broker.stop()


class TestDatabaseBroker(LogContract):
    @pytest.fixture
    def make_broker(self, using: str) -> MakeBroker:
        return partial(broker, using)

    async def test_refuses_publications_before_the_start_and_after_the_stop(
        self, make_broker: MakeBroker
    ) -> None:
        member = Member(make_broker())
        with pytest.raises(Unavailable):
            await member.publish(publication())
        await member.start()
        await member.broker.stop()
        with pytest.raises(Unavailable):
            await member.publish(publication())

    async def test_stop_writes_what_was_accepted(self, join: Join) -> None:
        member = await join()
        accepted = [member.broker.publish(publication(number)) for number in range(500)]
        await member.broker.stop()
        assert [await answered(each) for each in accepted] == list(range(1, 501))
        assert member.numbers == list(range(500))

    async def test_a_receiver_that_raises_misses_nothing_else(
        self, make_broker: MakeBroker
    ) -> None:
        class Raising(Member):
            def receive(self, publication: Any, offset: int | None) -> None:
                if int(bytes(publication.message)) % 2:
                    raise ValueError("odd")
                super().receive(publication, offset)

        member = Raising(make_broker())
        await member.start()
        try:
            for number in range(10):
                await member.publish(publication(number))
            assert member.numbers == [0, 2, 4, 6, 8]
        finally:
            await member.broker.stop()


# A restart


async def test_the_log_survives_a_restart(start: Start) -> None:
    one = await start()
    sent = [publication(payload, publisher="ada") for payload in PAYLOADS]
    for number, each in enumerate(sent):
        await one.publish(each, f"key-{number}")
    await one.broker.stop()

    two = await start()

    [before], [after] = one.logs, two.logs
    assert (after.epoch, after.offset, after.floor) == (before.epoch, len(sent), 0)
    assert list(after.publications) == list(enumerate(sent, 1))
    assert all(0 <= age < 60 for age in after.ages.values())
    repeated = await two.publish(publication(1), "key-0")
    assert (repeated, isinstance(repeated, Repeated)) == (1, True)
    assert await two.publish(publication(2), "another") == len(sent) + 1


async def test_what_is_acknowledged_is_committed_where_autocommit_is_off(
    start: Start, using: str
) -> None:
    connections.settings[using]["AUTOCOMMIT"] = False
    member = await start()
    assert await member.publish(publication(1)) == 1
    assert await kept() == [1]


async def test_the_keys_of_durable_messages_are_remembered_for_a_day(
    start: Start, using: str
) -> None:
    one = await start()
    durable, ordinary = server_key("durable:1"), server_key("1")
    for key in (durable, ordinary):
        await one.publish(publication(1), key)
    await one.broker.stop()
    await in_thread(lambda: LogEntry.objects.using(using).update(at=F("at") - 3600.0))

    two = await start()

    assert await two.publish(publication(1), durable) == Repeated(1)
    assert await two.publish(publication(1), ordinary) == 3


async def test_a_process_loads_what_its_tail_keeps(start: Start) -> None:
    one = await start()
    for number in range(20):
        await one.publish(publication(number))
    await one.broker.stop()

    two = await start(tail=Retention(messages=5, bytes=10**6, seconds=60))

    [log] = two.logs
    assert (log.offset, log.floor) == (20, 15)
    assert [offset for offset, _ in log.publications] == [16, 17, 18, 19, 20]


@pytest.mark.parametrize(
    ("spoil", "offset"),
    [
        # Somebody has removed the end, or all; put back an older copy; removed the state.
        (lambda: LogEntry.objects.using(ALIAS).filter(offset__gt=3).delete(), 5),
        (lambda: LogEntry.objects.using(ALIAS).all().delete(), 5),
        (lambda: LogState.objects.using(ALIAS).update(offset=3), 5),
        (lambda: LogState.objects.using(ALIAS).all().delete(), 5),
    ],
    ids=["end", "all", "state", "no state"],
)
async def test_a_log_without_its_end_begins_another_epoch(
    start: Start, spoil: Callable[[], Any], offset: int
) -> None:
    one = await start()
    for number in range(5):
        await one.publish(publication(number))
    await one.broker.stop()
    await in_thread(spoil)

    two = await start()

    assert two.logs[0].epoch != one.logs[0].epoch
    assert two.logs[0].offset == offset
    assert await two.publish(publication(6)) == offset + 1


# One process at a time

# A process keeps its lease however slow the machine is. It looks at it often.
KEPT = Timings(LEASE_TIMEOUT=600.0, LEASE_RENEW_INTERVAL=0.2)


async def end_lease() -> None:
    """Have the lease end, as when its holder renews it no more."""
    lease = Lease.objects.using(ALIAS).filter(name=LEASE)
    await in_thread(lambda: lease.update(expires_at=Now()))


async def test_a_second_process_is_refused_until_the_first_ends(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    one = await start(timings=KEPT)
    await one.publish(publication(1))
    two = await start(timings=KEPT)
    assert (two.is_excluded, two.logs) == (True, [])
    assert "another process is this server" in caplog.text
    with pytest.raises(Unavailable, match="another process is this server"):
        await two.publish(publication(2))
    assert await one.publish(publication(3)) == 2

    await one.broker.stop()

    await wait_until_async(lambda: bool(two.logs))
    assert not two.is_excluded
    assert (two.logs[0].epoch, two.logs[0].offset) == (one.logs[0].epoch, 2)
    assert await two.publish(publication(4)) == 3


async def test_a_process_that_has_lost_the_lease_writes_nothing(start: Start) -> None:
    """As one that was stopped for longer than its lease, and goes on."""
    member = await start(timings=KEPT)
    await member.publish(publication(1))

    def take() -> None:
        Lease.objects.using(ALIAS).filter(name=LEASE).update(holder="another")
        LogState.objects.using(ALIAS).update(holder="another")

    await in_thread(take)
    with pytest.raises(Unavailable, match="another process is this server"):
        await member.publish(publication(2))

    assert member.numbers == [1]
    assert await in_thread(LogEntry.objects.using(ALIAS).count) == 1
    await wait_until_async(lambda: member.is_excluded)
    # It takes over again once the lease of the other has ended.
    await end_lease()
    await wait_until_async(lambda: not member.is_excluded)
    assert [log.offset for log in member.logs] == [0, 1]
    assert await member.publish(publication(3)) == 2
    assert member.broker.stats().missed == 0


async def test_what_another_process_has_written_meanwhile_is_loaded(start: Start) -> None:
    member = await start(timings=KEPT)
    await member.publish(publication(1))

    def write() -> None:
        Lease.objects.using(ALIAS).filter(name=LEASE).update(holder="another")
        row = LogEntry.objects.using(ALIAS).get()
        row.offset = 2
        row.save(force_insert=True)
        LogState.objects.using(ALIAS).update(holder="another", offset=2)

    await in_thread(write)
    await wait_until_async(lambda: member.is_excluded)
    await end_lease()
    await wait_until_async(lambda: len(member.logs) == 2)
    assert [offset for offset, _ in member.logs[1].publications] == [1, 2]
    assert (member.broker.stats().gaps, member.broker.stats().missed) == (1, 1)
    assert await member.publish(publication(3)) == 3


# The bounds


async def kept(**fields: Any) -> list[int]:
    """The offsets that are in the log."""
    rows = LogEntry.objects.using(ALIAS).filter(**fields).order_by("offset")
    found: list[int] = await in_thread(lambda: list(rows.values_list("offset", flat=True)))
    return found


@pytest.mark.parametrize(
    "log",
    [
        Retention(messages=10, bytes=10**6, seconds=60),
        Retention(messages=1000, bytes=10 * (400 + 110), seconds=60),
    ],
    ids=["messages", "bytes"],
)
async def test_the_oldest_go_if_there_are_too_many(start: Start, log: Retention) -> None:
    member = await start(log=log)
    for number in range(100):
        await member.publish(publication(number))

    async def is_trimmed() -> bool:
        return len(await kept()) <= 10

    await wait_until_async(is_trimmed)
    offsets = await kept()
    assert offsets == list(range(101 - len(offsets), 101))
    assert len(offsets) >= 8
    await member.broker.stop()
    again = await start(log=log)
    assert (again.logs[0].epoch, again.logs[0].offset) == (member.logs[0].epoch, 100)
    assert again.logs[0].floor == 100 - len(offsets)


async def test_what_is_too_old_goes_and_the_log_goes_on(start: Start) -> None:
    log = Retention(messages=1000, bytes=10**6, seconds=0.3)
    member = await start(log=log)
    for number in range(5):
        await member.publish(publication(number))

    async def is_empty() -> bool:
        return not await kept()

    await wait_until_async(is_empty)
    await member.broker.stop()
    again = await start(log=log)
    [after] = again.logs
    assert (after.epoch, after.offset, after.floor) == (member.logs[0].epoch, 5, 5)
    assert await again.publish(publication(6)) == 6


HISTORY: dict[str, Retention | None] = {
    "chat": Retention(messages=3, bytes=10**6, seconds=60),
    "chat.typing": None,
}


async def test_each_root_has_bounds_of_its_own(start: Start) -> None:
    log = Retention(messages=5, bytes=10**6, seconds=60)
    history = HISTORY | {"kept": Retention(messages=8, bytes=10**6, seconds=60)}
    member = await start(log=log, history=history)
    for number in range(10):
        for topic in ("chat.room", "chat.typing.ada", "news", "kept"):
            await member.publish(publication(number, topic=topic))

    async def is_trimmed() -> bool:
        counts = [len(await kept(root=root)) for root in ("", "chat", "kept")]
        return counts == [5, 5, 8]

    await wait_until_async(is_trimmed)
    await member.broker.stop()
    again = await start(log=log, history=history)
    [loaded] = again.logs
    topics = [each.topic for _, each in loaded.publications]
    assert [topics.count(each) for each in ("news", "chat.room", "kept")] == [5, 3, 8]
    assert "chat.typing.ada" not in topics
    # The offsets go round the four topics.
    assert (loaded.floor, dict(loaded.floors)) == (4 * 4 + 3, {"chat": 4 * 6 + 1, "kept": 4 * 2})


async def test_roots_that_are_named_later_have_what_was_published_there(start: Start) -> None:
    log = Retention(messages=4, bytes=10**6, seconds=60)
    one = await start(log=log, history={"old": Retention(messages=2, bytes=10**6, seconds=60)})
    for number, topic in enumerate(("chat", "news", *["old"] * 6, "chat")):
        await one.publish(publication(number, topic=topic))

    async def is_trimmed() -> bool:
        return await kept(root="old") == [5, 6, 7, 8]

    await wait_until_async(is_trimmed)
    await one.broker.stop()

    two = await start(history=HISTORY)

    [loaded] = two.logs
    assert loaded.epoch == one.logs[0].epoch
    assert [each.topic for _, each in loaded.publications] == ["chat", "news", *["old"] * 4, "chat"]
    assert dict(loaded.floors) == {"chat": 0}
    # What the root that is gone had lost may be missing elsewhere now.
    assert loaded.floor == 4
    assert await kept(root="old") == []


# Faults


@asynccontextmanager
async def locked(using: str) -> AsyncIterator[None]:
    """Keep an SQLite database locked against those who write."""
    has_locked, may_end = threading.Event(), threading.Event()

    def lock() -> None:
        with transaction.atomic(using):
            LogState.objects.using(using).update(epoch="x")
            has_locked.set()
            may_end.wait(60)
            transaction.set_rollback(True, using)

    locking = asyncio.create_task(in_thread(lock))
    try:
        await wait_until_async(lambda: has_locked.is_set() or locking.done())
        yield
    finally:
        may_end.set()
        await locking


async def test_a_publish_waits_for_others_that_have_locked_the_database(
    sqlite_using: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LOCK_TIMEOUT", 60.0)
    monkeypatch.setattr(broker_module, "ANSWER_TIMEOUT", 60.0)
    member = await Member(broker(sqlite_using)).start()
    loop = asyncio.get_running_loop()
    async with locked(sqlite_using):
        outcome = member.broker.publish(publication(1))
        assert not isinstance(outcome, int)
        moment = loop.time() + 0.3
        await wait_until_async(lambda: loop.time() > moment or outcome.done())
        assert not outcome.done()
    assert await outcome == 1
    assert member.numbers == [1]
    await member.broker.stop()


async def test_a_publish_is_refused_if_the_database_is_locked_for_long(
    sqlite_using: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "LOCK_TIMEOUT", 0.2)
    caplog.set_level(logging.INFO, "dwsps_channels.broker")
    member = await Member(broker(sqlite_using)).start()
    await member.publish(publication(1))
    async with locked(sqlite_using):
        with pytest.raises(Unavailable, match="cannot publish for now"):
            await member.publish(publication(2))
        with pytest.raises(Unavailable):  # at once: it is known
            await member.publish(publication(3))
        assert "database is locked" in caplog.text

    await wait_until_async(lambda: member.broker.stats().connected)

    assert await member.publish(publication(4)) == 2
    assert (member.numbers, len(member.logs)) == ([1, 4], 1)
    assert "can be written again" in caplog.text
    await member.broker.stop()


async def test_a_full_disk_refuses_and_nobody_has_it(
    sqlite_using: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = connection._STATEMENTS
    limited = {"sqlite": (*statements["sqlite"], "PRAGMA max_page_count = 200")}
    monkeypatch.setattr(connection, "_STATEMENTS", limited)
    member = Member(broker(sqlite_using))
    await member.start()
    large = b'"' + b"x" * 50_000 + b'"'
    while not await is_refused(member, large):
        assert len(member.received) < 100
    had = len(member.received)
    assert await kept() == list(range(1, had + 1))

    monkeypatch.setattr(connection, "_STATEMENTS", statements)

    # Connections that were opened before have the limit yet.
    async def is_published() -> bool:
        return not await is_refused(member, large)

    await wait_until_async(is_published)
    assert await kept() == member.offsets == list(range(1, had + 2))
    assert len(member.logs) == 1
    await member.broker.stop()


async def is_refused(member: Member, message: bytes) -> bool:
    try:
        await member.publish(publication(message))
    except Unavailable:
        return True
    return False


@pytest.fixture
def empty_database(tmp_path: Path, django_db_blocker: Any) -> Iterator[str]:
    """The alias of a database without tables."""
    url = f"sqlite:///{tmp_path / 'empty.sqlite3'}"
    with django_db_blocker.unblock(), database_at(url, empty=True) as alias:
        yield alias


async def test_tables_that_are_missing_are_told(
    empty_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    member = await Member(broker(empty_database)).start()
    with pytest.raises(Unavailable):
        await member.publish(publication(1))
    await member.broker.stop()
    assert f"run 'manage.py migrate --database {ALIAS}'" in caplog.text
