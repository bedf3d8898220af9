"""Reading the log from a real database, as the worker does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from django.db import connections

from dwsps_channels.broker.database import source as source_module
from dwsps_channels.broker.database.source import DatabaseSource
from dwsps_channels.core.log_source import LogSource
from dwsps_channels.core.page import Position
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.retention import Retention
from dwsps_channels.models import LogEntry, LogState
from dwsps_channels.protocol.errors import Unavailable
from tests.broker.contract import Member, publication
from tests.broker.database.databases import ALIAS, broker
from tests.broker.database.queries import in_thread
from tests.processes import WAIT_TIMEOUT, wait_until_async
from tests.sources.contract import RemoteSourceContract, ServerLog, offsets, pages, read

pytestmark = pytest.mark.processes


class DatabaseLog(ServerLog):
    """A log that a broker writes."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def make_source(self) -> LogSource:
        return DatabaseSource(ALIAS)

    async def publish(self, publication: Publication) -> int:
        async with asyncio.timeout(WAIT_TIMEOUT):
            while True:
                try:
                    offset = await self._member.publish(publication)
                except Unavailable:  # it begins again
                    await asyncio.sleep(0.01)
                else:
                    assert offset is not None
                    return offset

    async def forget(self, offset: int) -> None:
        def forget() -> None:
            LogEntry.objects.using(ALIAS).filter(offset__lte=offset).delete()
            LogState.objects.using(ALIAS).update(floors={"": offset})

        await in_thread(forget)

    async def begin_again(self) -> None:
        def remove() -> None:
            LogEntry.objects.using(ALIAS).all().delete()
            LogState.objects.using(ALIAS).all().delete()

        await in_thread(remove)

    async def sever(self) -> None:
        await in_thread(lambda: _rename(LogState._meta.db_table, "elsewhere"))

    async def mend(self) -> None:
        await in_thread(lambda: _rename("elsewhere", LogState._meta.db_table))


def _rename(table: str, name: str) -> None:
    with connections[ALIAS].cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO {name}")


@pytest.fixture
async def member(using: str) -> AsyncIterator[Member]:
    member = await Member(broker(using)).start()
    yield member
    await member.broker.stop()


class TestDatabaseSource(RemoteSourceContract):
    @pytest.fixture(autouse=True)
    def short_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Many of these tests read to the end, and wait there."""
        monkeypatch.setattr(source_module, "WAIT", 0.2)

    @pytest.fixture
    async def log(self, member: Member) -> ServerLog:
        return DatabaseLog(member)


async def test_a_log_that_was_never_written_is_unavailable(using: str) -> None:
    source = DatabaseSource(using)
    with pytest.raises(Exception, match="has not written its log yet"):
        await source.read(Position())
    await source.close()


async def test_links_that_wait_share_one_query(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    await member.publish(publication(1))
    source = DatabaseSource(ALIAS)
    [*_, end] = await pages(source, Position())
    looks = 0
    look = source._call

    async def counted(query: Callable[[], Any]) -> Any:
        nonlocal looks
        looks += 1
        return await look(query)

    monkeypatch.setattr(source, "_call", counted)
    await asyncio.gather(*(read(source, end.position) for _ in range(20)))
    # Each looks once; then they wait for a second together, with 20 looks.
    assert looks <= 20 + 21
    await source.close()


async def test_what_is_missing_between_is_counted(using: str) -> None:
    """Roots have bounds of their own: what one keeps for long lies between what is gone."""
    history: dict[str, Retention | None] = {
        "news": Retention(messages=100, bytes=10**6, seconds=60)
    }
    bounds = Retention(messages=2, bytes=10**6, seconds=60)
    member = await Member(broker(using, log=bounds, history=history)).start()
    source = DatabaseSource(using)
    for number in range(10):
        await member.publish(publication(number, topic="news"))
        await member.publish(publication(number, topic="other"))

    async def is_trimmed() -> bool:
        rows = LogEntry.objects.using(ALIAS).filter(root="")
        return await in_thread(rows.count) == 2

    await wait_until_async(is_trimmed)
    epoch = member.logs[0].epoch
    found = await pages(source, Position(f"{epoch}:4", 1.0), messages=3)
    assert offsets(found) == [5, 7, 9, 11, 13, 15, 17, 18, 19, 20]
    assert sum(page.missed for page in found) == 6
    await source.close()
    await member.broker.stop()
