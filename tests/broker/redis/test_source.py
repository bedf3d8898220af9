"""Reading the log from a real Redis, as the worker does: on good days and on bad ones."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis as Client

from dwsps_channels.broker.redis.connection import Connection
from dwsps_channels.broker.redis.hosts import async_pool, make_crypter
from dwsps_channels.broker.redis.source import RedisSource
from dwsps_channels.core.page import Page, Position
from dwsps_channels.core.publication import Publication
from tests.broker.contract import publication
from tests.broker.redis.brokers import layout, source_at
from tests.processes import WAIT_TIMEOUT, Redis, wait_until_async
from tests.sources.contract import until_entries

START = Position()


class Log:
    """A log that is written batch by batch."""

    def __init__(self, connection: Connection, client: Any, **options: Any) -> None:
        self._connection = connection
        self.client = client
        self.layout = layout(**options)
        self._number = 0

    async def join(self) -> None:
        run = (await self._connection.server()).run
        await self._connection.run(self.layout.join("", run, "fresh", "", b"0-0"))

    async def append(self, *publications: Publication) -> None:
        """Append one batch."""
        self._number += 1
        keys = [""] * len(publications)
        what, *_ = await self._connection.run(
            self.layout.append("p", self._number, self._number, "", publications, keys)
        )
        assert what == b"ok"

    async def fill(self, first: int, last: int) -> None:
        """Append numbers, in one batch."""
        await self.append(*(publication(number) for number in range(first, last + 1)))


@pytest.fixture
def redis(emptied: Redis) -> Redis:
    return emptied


@pytest.fixture
async def log(redis: Redis) -> AsyncIterator[Log]:
    connection, client = Connection(async_pool({"address": redis.url})), Client.from_url(redis.url)
    await connection.open()
    log = Log(connection, client)
    await log.join()
    yield log
    await connection.close()
    await client.aclose()


@pytest.fixture
async def source(redis: Redis) -> AsyncIterator[RedisSource]:
    source = source_at(redis.url)
    yield source
    await source.close()


def numbers(page: Page) -> list[int]:
    return [int(bytes(each.publication.message)) for each in page.entries]


async def read_all(
    source: RedisSource, position: Position = START, **bounds: int
) -> AsyncIterator[Page]:
    """Read page by page, until one is empty."""
    while True:
        page = await source.read(position, **bounds)
        if not page.entries:
            break
        yield page
        position = page.position


class TestPages:
    async def test_a_batch_that_is_too_large_goes_on_in_the_next_page(
        self, log: Log, source: RedisSource
    ) -> None:
        await log.fill(1, 5)
        await log.fill(6, 10)
        pages = [page async for page in read_all(source, messages=4)]
        assert [numbers(page) for page in pages] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
        assert [page.cursor for page in pages] == ["fresh:4", "fresh:8", "fresh:10"]
        assert [page.end for page in pages] == [10, 10, 10]

    async def test_a_page_has_no_more_bytes_but_for_one_message(
        self, log: Log, source: RedisSource
    ) -> None:
        large = publication(b'"' + b"x" * 1000 + b'"')
        await log.append(*[publication(1)] * 3, large, *[publication(2)] * 3)
        pages = [page async for page in read_all(source, size=100)]
        assert [len(page.entries) for page in pages] == [3, 1, 3]

    async def test_a_message_does_not_keep_its_batch_in_memory(
        self, log: Log, source: RedisSource
    ) -> None:
        await log.append(publication(1), publication(b'"' + b"x" * 5_000_000 + b'"'))
        tracemalloc.start()
        try:
            page = await source.read(START, messages=1)
            gc.collect()
            assert numbers(page) == [1]
            assert tracemalloc.get_traced_memory()[0] < 1_000_000
        finally:
            tracemalloc.stop()

    async def test_what_peers_have_sent_is_passed_over(self, log: Log, source: RedisSource) -> None:
        of_peer = publication(0, from_peer_server=True, publisher="south")
        await log.append(publication(1), *[of_peer] * 10, publication(2))
        for _ in range(20):
            await log.append(*[of_peer] * 10)
        first = await source.read(START, messages=1)
        assert (numbers(first), first.cursor) == ([1], "fresh:11")
        second = await source.read(first.position, messages=1)
        assert numbers(second) == [2]
        third = await source.read(second.position, messages=10)
        assert (third.entries, third.cursor, third.end, third.missed) == ([], "fresh:212", 212, 0)

    async def test_the_time_of_a_page_is_that_of_its_last_message_or_the_present_at_the_end(
        self, log: Log, source: RedisSource
    ) -> None:
        await log.fill(1, 2)
        seconds, micros = await log.client.time()
        first = await source.read(START, messages=1)
        assert first.at == first.entries[0].at <= seconds + micros / 1e6
        second = await source.read(first.position)
        assert second.at >= seconds + micros // 1000 / 1000
        third = await source.read(second.position)
        assert third.at > second.at

    async def test_encrypted_messages_are_read(self, redis: Redis, log: Log) -> None:
        crypter = make_crypter(["one"])
        log.layout = layout(crypter=crypter)
        await log.fill(1, 2)
        source = source_at(redis.url, crypter=crypter)
        assert numbers(await source.read(START)) == [1, 2]
        await source.close()

    async def test_what_cannot_be_read_is_counted(
        self, redis: Redis, log: Log, caplog: pytest.LogCaptureFixture
    ) -> None:
        await log.fill(1, 2)
        log.layout = layout(crypter=make_crypter(["one"]))
        await log.fill(3, 5)
        log.layout = layout()
        await log.fill(6, 6)
        source = source_at(redis.url)
        page = await source.read(START)
        assert (numbers(page), page.missed, page.cursor) == ([1, 2, 6], 3, "fresh:6")
        assert "messages of process p cannot be read, and are not forwarded" in caplog.text
        await source.close()


class TestWaiting:
    async def test_an_empty_page_comes_soon(self, log: Log, source: RedisSource) -> None:
        async with asyncio.timeout(WAIT_TIMEOUT):
            page = await source.read(START)
            assert (page.entries, page.cursor, page.end) == ([], "fresh:0", 0)
            page = await source.read(page.position)
            assert (page.entries, page.cursor, page.restarted) == ([], "fresh:0", False)

    async def test_many_reads_wait_on_one_connection(self, log: Log, source: RedisSource) -> None:
        position = (await source.read(START)).position
        reads = [asyncio.create_task(until_entries(source, position)) for _ in range(20)]

        async def is_waiting() -> bool:
            return any(each["cmd"] == "xread" for each in await log.client.client_list())

        await wait_until_async(is_waiting)
        assert len(await log.client.client_list()) == 4  # two of the source, two of the test
        await log.fill(1, 1)
        assert [numbers(page) for page in await asyncio.gather(*reads)] == [[1]] * 20

    async def test_a_read_that_is_cancelled_harms_no_other(
        self, log: Log, source: RedisSource
    ) -> None:
        position = (await source.read(START)).position
        for number in range(1, 30):
            reads = [asyncio.create_task(until_entries(source, position)) for _ in range(4)]
            for turn in range(number % 7):
                await asyncio.sleep(0.001 * turn)
            for read in reads[::2]:
                read.cancel()
            await log.fill(number, number)
            pages = await asyncio.gather(*reads[1::2])
            assert [numbers(page) for page in pages] == [[number]] * 2
            position = pages[0].position


class TestGaps:
    async def test_what_was_trimmed_is_counted(self, log: Log, source: RedisSource) -> None:
        await log.fill(1, 3)
        position = (await source.read(START, messages=1)).position
        for number in range(4, 10):
            await log.fill(number, number)
        await log.client.xtrim(log.layout.log, maxlen=2, approximate=False)
        page = await source.read(position)
        assert (numbers(page), page.missed, page.restarted) == ([8, 9], 6, False)

    async def test_a_hole_is_counted(self, log: Log, source: RedisSource) -> None:
        for first in (1, 4, 7):
            await log.fill(first, first + 2)
        position = (await source.read(START, messages=1)).position
        [_, (id, _), _] = await log.client.xrange(log.layout.log)
        await log.client.xdel(log.layout.log, id)
        page = await source.read(position)
        assert (numbers(page), page.missed) == ([2, 3, 7, 8, 9], 3)

    async def test_if_all_is_gone_it_is_counted_as_well(
        self, log: Log, source: RedisSource
    ) -> None:
        await log.fill(1, 3)
        position = (await source.read(START, messages=1)).position
        await log.client.xtrim(log.layout.log, maxlen=0, approximate=False)
        page = await source.read(position)
        assert (page.entries, page.missed, page.cursor) == ([], 2, "fresh:3")

    async def test_another_epoch_begins_some_seconds_before_the_time_of_the_position(
        self, log: Log, source: RedisSource
    ) -> None:
        for number in range(1, 40):
            await log.fill(number, number)
        entries = await log.client.xrange(log.layout.log)
        await log.client.delete(log.layout.log)
        now = 2_000_000_000
        for number, (id, fields) in enumerate(entries, 1):
            fields[b"t"] = (now + number) * 1000
            await log.client.xadd(log.layout.log, fields, id=id)
        for place in ("another:35", "", "?", "fresh:41", "fresh:999999999999999999"):
            page = await source.read(Position(place, now + 30.0))
            assert page.restarted
            assert numbers(page) == list(range(20, 40))
        page = await source.read(Position("fresh:35", now + 30.0))
        assert (numbers(page), page.restarted) == ([36, 37, 38, 39], False)
        for at, first in ((now + 11.0, 1), (now + 49.0, 39), (now + 11.001, 2)):
            assert numbers(await source.read(Position("", at)))[0] == first
        page = await source.read(Position("", now + 50.0))
        assert (page.entries, page.missed, page.cursor, page.restarted) == ([], 0, "fresh:39", True)
