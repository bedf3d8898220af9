"""Reading the log from a process that does not serve."""

from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from dwsps_channels.broker.database import reader as reader_module
from dwsps_channels.broker.database.reader import DatabaseReader
from dwsps_channels.broker.database.roots import Roots
from dwsps_channels.core.replay import ReplayLimits
from dwsps_channels.core.retention import Retention
from tests.broker.contract import Member, publication
from tests.broker.database.databases import ALIAS, ROOMY, broker
from tests.broker.database.queries import in_thread

pytestmark = pytest.mark.processes

HISTORY: dict[str, Retention | None] = {
    "chat": Retention(messages=4, bytes=10**6, seconds=60),
    "chat.typing": None,
}
TOPICS = ("news", "chat", "chat.room", "chat.typing.ada", "news.uk", "newsletter")


@pytest.fixture
def reader(using: str) -> Iterator[DatabaseReader]:
    reader = DatabaseReader(using, Roots(ROOMY, ROOMY, HISTORY), ReplayLimits(messages=20))
    yield reader
    reader.close()


@pytest.fixture
async def epoch(using: str) -> str:
    """Of a log of 60 publications."""
    member = await Member(broker(using, history=HISTORY)).start()
    for number in range(60):
        await member.publish(publication(number, topic=TOPICS[number % len(TOPICS)]))
    await member.broker.stop()
    return member.logs[0].epoch


def soon() -> float:
    return monotonic() + 30


async def load(reader: DatabaseReader, topic: str, **part: Any) -> tuple[list[int], int]:
    """Return the offsets that are found, and the floor."""
    log = await in_thread(lambda: reader.load(topic, soon(), **part))
    assert (log.offset, set(log.ages)) == (60, {offset for offset, _ in log.publications})
    return [offset for offset, _ in log.publications], log.floor


async def test_the_cursor_is_the_end_of_the_log(reader: DatabaseReader, epoch: str) -> None:
    assert await in_thread(lambda: reader.cursor(soon())) == f"{epoch}:60"


async def test_finds_all_that_is_kept_at_and_below_a_topic(
    reader: DatabaseReader, epoch: str
) -> None:
    news = [offset for offset in range(1, 61) if offset % 6 in (1, 5)]
    assert await load(reader, "news") == (news, 0)
    assert await load(reader, "news.uk") == (news[1::2], 0)
    assert await load(reader, "nothing") == ([], 0)


async def test_finds_what_came_after_a_cursor(reader: DatabaseReader, epoch: str) -> None:
    assert await load(reader, "news.uk", since=f"{epoch}:40") == ([41, 47, 53, 59], 0)
    assert await load(reader, "news.uk", since=f"{epoch}:60") == ([], 0)
    # A cursor that is none of this log has nothing.
    for cursor in (f"{epoch}:61", "another:40", "?"):
        assert await load(reader, "news.uk", since=cursor) == ([], 60)


async def test_finds_the_newest(reader: DatabaseReader, epoch: str) -> None:
    assert (await load(reader, "news", last=3))[0] == [53, 55, 59]
    assert (await load(reader, "news", last=0))[0] == []


async def test_what_is_read_portion_by_portion_has_no_gap(
    reader: DatabaseReader, epoch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_FIRST", 4)
    monkeypatch.setattr(reader, "_limits", ReplayLimits())
    news = [offset for offset in range(1, 61) if offset % 6 in (1, 5)]
    # There are 30 to look at: 4, 8, 16, and 2.
    assert await load(reader, "news") == (news, 0)


async def test_few_of_many_are_found_without_reading_all(
    reader: DatabaseReader, epoch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_FIRST", 4)

    def read() -> list[str]:
        with CaptureQueriesContext(connections[ALIAS]) as queries:
            log = reader.load("news", soon(), last=3)
        assert [offset for offset, _ in log.publications] == [53, 55, 59]
        return [query["sql"] for query in queries if "data" in query["sql"]]

    assert len(await in_thread(read)) == 2


async def test_what_is_more_than_may_be_sent_is_not_read(
    reader: DatabaseReader, epoch: str
) -> None:
    reader._limits = ReplayLimits(messages=5)
    assert await load(reader, "news") == ([43, 47, 49, 53, 55, 59], 42)


async def test_what_a_root_has_lost_is_known(reader: DatabaseReader, epoch: str) -> None:
    offsets, floor = await load(reader, "chat.room")
    assert offsets[-1] == 57
    # The root keeps four, of which two are below this topic; it may not have been trimmed yet.
    assert floor in (0, *range(2, 57))
    assert [offset for offset in range(floor + 1, 61) if offset % 6 == 3] == offsets


async def test_a_log_that_was_never_written_cannot_be_read(reader: DatabaseReader) -> None:
    def ask() -> str:
        return reader.cursor(soon())

    with pytest.raises(ConnectionError, match="has not written its log yet"):
        await in_thread(ask)


async def test_a_read_ends_at_its_deadline(reader: DatabaseReader, epoch: str) -> None:
    with pytest.raises(TimeoutError):
        await in_thread(lambda: reader.load("news", monotonic() - 1))
