"""The shared source: one read for equal ones, and reads that wait until the log is there."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import pytest

from dwsps_channels.core.log_source import PAGE_BYTES, PAGE_MESSAGES
from dwsps_channels.core.page import Page, Position
from dwsps_channels.peering.outbound import shared_source as module
from dwsps_channels.peering.outbound.message import MessagePage
from dwsps_channels.peering.outbound.shared_source import SharedSource
from tests.peering.outbound.log import LogInMemory, publication
from tests.processes import wait_until_async

START = Position("log:0")


@pytest.fixture(autouse=True)
async def nothing_left_running() -> AsyncIterator[None]:
    yield
    await wait_until_async(lambda: asyncio.all_tasks() == {asyncio.current_task()})


@pytest.fixture
def log() -> LogInMemory:
    return LogInMemory(wait=60.0)


@pytest.fixture
async def source(log: LogInMemory) -> AsyncIterator[SharedSource]:
    source = SharedSource(log)
    yield source
    await source.close()


def reading(source: SharedSource, position: Position = START) -> asyncio.Task[MessagePage]:
    return asyncio.create_task(source.read(position))


async def is_read(log: LogInMemory, times: int) -> None:
    await wait_until_async(lambda: len(log.reads) >= times, what=f"{times} reads")


async def test_links_at_the_same_place_share_a_read_and_its_messages(
    log: LogInMemory, source: SharedSource
) -> None:
    reads = [reading(source) for _ in range(3)]
    await is_read(log, 1)
    log.append(publication(1))
    first, *others = [await each for each in reads]
    assert [message.sequence for message in first.messages] == [1]
    assert all(other is first for other in others)
    assert log.reads == [START]


async def test_links_at_different_places_read_at_the_same_time(
    log: LogInMemory, source: SharedSource
) -> None:
    for number in (1, 2):
        log.append(publication(number))
    late = reading(source, Position("log:2"))
    assert [message.sequence for message in (await source.read(START)).messages] == [1, 2]
    assert not late.done()
    log.append(publication(3))
    assert [message.sequence for message in (await late).messages] == [3]


async def test_a_message_knows_its_place(log: LogInMemory, source: SharedSource) -> None:
    log.append_foreign()
    log.append(publication(7), at=5.0)
    [message] = (await source.read(START)).messages
    assert message.position == Position("log:2", 5.0)


async def test_a_link_that_leaves_disturbs_no_other(log: LogInMemory, source: SharedSource) -> None:
    staying, leaving = reading(source), reading(source)
    await is_read(log, 1)
    leaving.cancel()
    await asyncio.wait([leaving])
    log.append(publication(1))
    assert len((await staying).messages) == 1
    assert len(log.reads) == 1


async def test_with_the_last_link_the_read_ends_and_the_next_one_reads_again(
    log: LogInMemory, source: SharedSource
) -> None:
    leaving = reading(source)
    await is_read(log, 1)
    leaving.cancel()
    coming = reading(source)
    await asyncio.wait([leaving])
    await is_read(log, 2)
    log.append(publication(1))
    assert len((await coming).messages) == 1


async def test_a_read_waits_until_the_log_can_be_read(
    log: LogInMemory,
    source: SharedSource,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "BACKOFF_CAP", 0.01)
    monkeypatch.setattr(module, "ROUTINE_GRACE", 3600.0)
    log.append(publication(1))
    log.problem = "Redis is away"
    read = reading(source)
    await is_read(log, 5)
    routine = source.outage
    assert routine is None
    monkeypatch.setattr(module, "ROUTINE_GRACE", 0.0)
    since, problem = source.outage or (0.0, "")
    assert (abs(since - time.time()) < 60, problem) == (True, "Redis is away")
    await wait_until_async(lambda: "WARNING" in caplog.text)
    log.problem = None
    assert len((await read).messages) == 1
    assert source.outage is None
    line = "the log cannot be read: Redis is away; trying again"
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", line),
        ("WARNING", line),
        ("INFO", "the log can be read again"),
    ]


async def test_a_defect_of_a_source_is_logged_once_and_shown(
    log: LogInMemory,
    source: SharedSource,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "BACKOFF_CAP", 0.01)
    monkeypatch.setattr(module, "ROUTINE_GRACE", 0.0)
    log.append(publication(1))
    tried = 0

    async def fails(
        position: Position, *, messages: int = PAGE_MESSAGES, size: int = PAGE_BYTES
    ) -> Page:
        nonlocal tried
        tried += 1
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(log, "read", fails)
        read = reading(source)
        await wait_until_async(lambda: tried >= 3)
        assert source.outage is not None
        assert source.outage[1] == "reading failed: ZeroDivisionError"
    assert len((await read).messages) == 1
    assert caplog.text.count("Traceback") == 1


async def test_links_that_only_look_share_what_was_read_last(
    log: LogInMemory, source: SharedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_INTERVAL", 3600.0)
    for number in range(1, 10):
        log.append(publication(number))
    pages = [await source.look(Position(f"log:{offset}")) for offset in range(5)]
    assert {page.end for page in pages} == {9}
    assert log.reads == [START]
    log.append(publication(10))
    monkeypatch.setattr(module, "LOOK_INTERVAL", 0.0)
    assert (await source.look(Position("log:3"))).end == 10
    assert log.reads == [START, Position("log:3")]


async def test_closing_it_ends_the_reads_and_closes_the_source(log: LogInMemory) -> None:
    source = SharedSource(log)
    read = reading(source)
    await is_read(log, 1)
    await source.close()
    await asyncio.wait([read])
    assert read.cancelled()
    assert log.is_closed
