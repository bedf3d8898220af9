"""The contract of a source. The tests of an implementation subclass ``SourceContract`` and give it a log to read."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from time import time

import pytest
from msgspec import Raw

from dwsps_channels.core.log_source import LogSource, SourceUnavailable
from dwsps_channels.core.page import OVERLAP, Logged, Page, Position
from dwsps_channels.core.publication import Publication
from tests.processes import WAIT_TIMEOUT, wait_until_async

STAMP = "2020-01-21T17:03:13.625Z"

PAYLOADS = [
    b"null",
    b"123456789012345678901234567890",
    '"é ☃ 😀"'.encode(),
    b'{"b": 1 ,  "a":[ ], "b":2}',
    b'"' + b"x" * 65_000 + b'"',
]


class ServerLog(ABC):
    """A server whose log is read. What is published is of two of its processes, or of a peer."""

    @abstractmethod
    def make_source(self) -> LogSource:
        """Return a source of the log. The suite closes it."""

    @abstractmethod
    async def publish(self, publication: Publication) -> int:
        """Append ``publication``, and return its offset once it can be read."""

    async def forget(self, offset: int) -> None:
        """Have the log keep nothing up to ``offset``."""
        raise NotImplementedError

    async def begin_again(self) -> None:
        """Have the log begin another epoch, without anything in it."""
        raise NotImplementedError

    async def sever(self) -> None:
        """Take away what the source reads from."""
        raise NotImplementedError

    async def mend(self) -> None:
        """Undo ``sever``. Nothing was lost meanwhile."""
        raise NotImplementedError


def own(number: int, message: bytes | None = None, topic: str = "news.uk") -> Publication:
    payload = str(number).encode() if message is None else message
    return Publication(topic, Raw(payload), STAMP, f"process-{number % 2}", number // 2 + 1, "ann")


def of_peer(number: int) -> Publication:
    return Publication("news", Raw(b"1"), STAMP, "far", number + 1, "north", from_peer_server=True)


async def read(source: LogSource, position: Position, **limits: int) -> Page:
    """Read a page. It comes soon, whether there is something to read or not."""
    async with asyncio.timeout(WAIT_TIMEOUT):
        return await source.read(position, **limits)


async def pages(source: LogSource, position: Position, **limits: int) -> list[Page]:
    """Read to the end of the log."""
    found: list[Page] = []
    while True:
        page = await read(source, position, **limits)
        found.append(page)
        if page.cursor in (position.cursor, f"{epoch_of(page)}:{page.end}"):
            return found
        position = page.position


def epoch_of(position: Position | Page) -> str:
    return position.cursor.partition(":")[0]


async def until_entries(source: LogSource, position: Position, **limits: int) -> Page:
    """Read until something is there to read."""
    async with asyncio.timeout(WAIT_TIMEOUT):
        while not (page := await source.read(position, **limits)).entries:
            assert not page.missed
            position = page.position
    return page


def entries(found: Iterable[Page]) -> list[Logged]:
    return [entry for page in found for entry in page.entries]


def offsets(found: Iterable[Page]) -> list[int]:
    return [entry.offset for entry in entries(found)]


class SourceContract:
    """For every source."""

    @pytest.fixture
    async def log(self) -> ServerLog:
        """A log to which nothing was published yet. It is gone after the test."""
        raise NotImplementedError

    @pytest.fixture
    async def source(self, log: ServerLog) -> AsyncIterator[LogSource]:
        source = log.make_source()
        yield source
        await source.close()

    async def publish(self, log: ServerLog, count: int, first: int = 0) -> list[int]:
        return [await log.publish(own(number)) for number in range(first, first + count)]

    async def start(self, source: LogSource) -> Position:
        """Return the position at the end of the log."""
        return (await pages(source, Position()))[-1].position

    async def test_reads_what_was_published_in_order_and_whole(
        self, log: ServerLog, source: LogSource
    ) -> None:
        sent = [own(number, payload) for number, payload in enumerate(PAYLOADS)]
        sent.append(own(7, topic="☃.1.__proto__"))
        expected = [await log.publish(each) for each in sent]
        found = entries(await pages(source, Position()))
        assert [entry.publication for entry in found] == sent
        assert [entry.offset for entry in found] == expected
        assert all(abs(entry.at - time()) < 60 for entry in found)

    async def test_pages_follow_each_other_without_a_hole(
        self, log: ServerLog, source: LogSource
    ) -> None:
        expected = await self.publish(log, 10)
        found = await pages(source, Position(), messages=3)
        assert offsets(found) == expected
        assert all(len(page.entries) <= 3 for page in found)
        assert {page.missed for page in found} == {0}
        assert [page.restarted for page in found] == [True] + [False] * (len(found) - 1)

    async def test_reads_on_from_any_place(self, log: ServerLog, source: LogSource) -> None:
        expected = await self.publish(log, 6)
        epoch = epoch_of(await self.start(source))
        for index, offset in enumerate(expected):
            position = Position(f"{epoch}:{offset}", time())
            page = await read(source, position)
            assert offsets([page]) == expected[index + 1 :]
            assert (page.missed, page.restarted) == (0, False)

    async def test_what_peers_have_sent_is_left_out_and_passed(
        self, log: ServerLog, source: LogSource
    ) -> None:
        expected = []
        for number in range(8):
            expected.append(await log.publish(own(number)))
            await log.publish(of_peer(number))
        found = await pages(source, Position(), messages=2)
        assert offsets(found) == expected
        assert {page.missed for page in found} == {0}
        for number in range(8, 12):
            last = await log.publish(of_peer(number))
        after = await pages(source, found[-1].position)
        assert offsets(after) == []
        assert after[-1].cursor == f"{epoch_of(after[-1])}:{last}"
        assert {page.missed for page in after} == {0}

    async def test_a_page_has_no_more_bytes_than_it_may(
        self, log: ServerLog, source: LogSource
    ) -> None:
        expected = [
            await log.publish(own(number, b'"' + b"x" * 40_000 + b'"')) for number in range(6)
        ]
        found = await pages(source, Position(), size=100_000)
        assert offsets(found) == expected
        assert all(1 <= len(page.entries) <= 2 for page in found if page.cursor != found[-1].cursor)

    async def test_one_message_comes_however_large_it_is(
        self, log: ServerLog, source: LogSource
    ) -> None:
        expected = await self.publish(log, 3)
        found = await pages(source, Position(), size=1)
        assert offsets(found) == expected
        assert all(len(page.entries) <= 1 for page in found)

    async def test_waits_for_what_is_published_next(
        self, log: ServerLog, source: LogSource
    ) -> None:
        position = await self.start(source)
        for number in range(5):
            reading = asyncio.create_task(until_entries(source, position))
            expected = await self.publish(log, 1, number)
            page = await reading
            assert offsets([page]) == expected
            position = page.position

    async def test_an_empty_page_comes_if_nothing_is_published(
        self, log: ServerLog, source: LogSource
    ) -> None:
        [last] = await self.publish(log, 1)
        position = await self.start(source)
        page = await read(source, position)
        assert (list(page.entries), page.cursor, page.end) == ([], position.cursor, last)
        assert (page.missed, page.restarted) == (0, False)
        assert abs(page.at - time()) < 60

    async def test_an_empty_log_has_an_empty_page(self, log: ServerLog, source: LogSource) -> None:
        page = await read(source, Position("", time()))
        assert (list(page.entries), page.end, page.missed) == ([], 0, 0)
        expected = await self.publish(log, 2)
        assert offsets([await until_entries(source, page.position)])[:1] == expected[:1]

    async def test_tells_where_the_log_ends(self, log: ServerLog, source: LogSource) -> None:
        last = (await self.publish(log, 9))[-1]
        found = await pages(source, Position(), messages=2)
        assert {page.end for page in found} == {last}

    async def test_the_time_of_a_position_is_that_of_what_was_read(
        self, log: ServerLog, source: LogSource
    ) -> None:
        await self.publish(log, 4)
        page = await read(source, Position(), messages=2)
        assert page.at == page.entries[-1].at
        [*_, last] = await pages(source, page.position)
        assert last.at >= entries([last])[-1].at

    @pytest.mark.parametrize("cursor", ["", "another:3", "?"])
    async def test_a_cursor_that_the_log_does_not_know_restarts_it(
        self, log: ServerLog, source: LogSource, cursor: str
    ) -> None:
        expected = await self.publish(log, 5)
        found = await pages(source, Position(cursor, time()), messages=2)
        assert offsets(found) == expected
        assert [page.restarted for page in found] == [True] + [False] * (len(found) - 1)
        assert {page.missed for page in found} == {0}

    async def test_a_restart_goes_back_a_little_and_no_more(
        self, log: ServerLog, source: LogSource
    ) -> None:
        await self.publish(log, 3)
        began = time()
        await wait_until_async(lambda: time() > began + 0.1, 5, "a moment")
        expected = await self.publish(log, 3, 3)
        found = entries(await pages(source, Position()))
        [middle] = [each for each in found if each.offset == expected[0]]
        since = Position("another:3", (found[2].at + middle.at) / 2 + OVERLAP)
        assert offsets(await pages(source, since)) == expected
        # Nothing is that new; and the log is known from then on.
        page = await read(source, Position("another:3", time() + 1000))
        assert (list(page.entries), page.restarted) == ([], True)
        [last] = await self.publish(log, 1, 6)
        page = await until_entries(source, page.position)
        assert (offsets([page]), page.restarted, page.missed) == ([last], False, 0)

    async def test_several_reads_may_be_under_way(self, log: ServerLog, source: LogSource) -> None:
        expected = await self.publish(log, 10)
        end = await self.start(source)
        epoch = epoch_of(end)
        places = [Position(f"{epoch}:{offset}", time()) for offset in expected[:-1:2]]
        waiting = [asyncio.create_task(until_entries(source, end)) for _ in range(3)]
        found = await asyncio.gather(*(pages(source, place) for place in places))
        assert [offsets(each)[: 9 - 2 * index] for index, each in enumerate(found)] == [
            expected[2 * index + 1 :] for index in range(len(places))
        ]
        [last] = await self.publish(log, 1, 10)
        assert [offsets([page]) for page in await asyncio.gather(*waiting)] == [[last]] * 3

    async def test_a_read_that_is_cancelled_disturbs_no_other(
        self, log: ServerLog, source: LogSource
    ) -> None:
        expected = await self.publish(log, 3)
        end = await self.start(source)
        for _ in range(2):
            readings = [asyncio.create_task(source.read(end)) for _ in range(3)]
            await asyncio.sleep(0)
            readings[0].cancel()
            readings[1].cancel()
            await asyncio.wait(readings[:2])
            assert all(each.cancelled() for each in readings[:2])
            assert list((await readings[2]).entries) == []
            assert offsets(await pages(source, Position())) == expected
        [last] = await self.publish(log, 1, 3)
        assert offsets([await until_entries(source, end)]) == [last]

    async def test_reads_while_it_is_written(self, log: ServerLog, source: LogSource) -> None:
        count = 300
        writing = asyncio.create_task(self.publish(log, count))
        found: list[Page] = []
        position = Position()
        async with asyncio.timeout(30):
            while len(entries(found)) < count:
                found.append(await source.read(position, messages=50))
                position = found[-1].position
        assert offsets(found) == await writing
        assert {page.missed for page in found} == {0}

    async def test_close_may_be_called_twice(self, source: LogSource) -> None:
        await read(source, Position())
        await source.close()
        await source.close()


class RetainedSourceContract(SourceContract):
    """For a source of a log whose broker bounds it, and may begin another epoch."""

    async def test_what_the_log_has_no_more_is_counted(
        self, log: ServerLog, source: LogSource
    ) -> None:
        expected = await self.publish(log, 20)
        epoch = epoch_of(await self.start(source))
        await log.forget(expected[11])
        position = Position(f"{epoch}:{expected[3]}", time())
        found = await pages(source, position)
        assert offsets(found) == expected[12:]
        assert sum(page.missed for page in found) == 8
        assert not any(page.restarted for page in found)

    async def test_nothing_is_missed_by_a_position_at_the_floor(
        self, log: ServerLog, source: LogSource
    ) -> None:
        expected = await self.publish(log, 20)
        epoch = epoch_of(await self.start(source))
        await log.forget(expected[11])
        for offset in expected[11:]:
            found = await pages(source, Position(f"{epoch}:{offset}", time()))
            assert sum(page.missed for page in found) == 0

    async def test_all_that_is_missed_is_counted_if_nothing_is_kept(
        self, log: ServerLog, source: LogSource
    ) -> None:
        expected = await self.publish(log, 5)
        epoch = epoch_of(await self.start(source))
        await log.forget(expected[-1])
        found = await pages(source, Position(f"{epoch}:{expected[1]}", time()))
        assert offsets(found) == []
        assert sum(page.missed for page in found) == 3

    async def test_a_log_that_begins_again_restarts_its_readers(
        self, log: ServerLog, source: LogSource
    ) -> None:
        await self.publish(log, 5)
        position = await self.start(source)
        await log.begin_again()
        expected = await self.publish(log, 2, 5)
        found = await pages(source, position)
        assert offsets(found) == expected
        assert (found[0].restarted, sum(page.missed for page in found)) == (True, 0)
        assert epoch_of(found[-1]) != epoch_of(position)


class RemoteSourceContract(RetainedSourceContract):
    """For a source that reads from another process."""

    async def test_a_log_that_cannot_be_read_is_unavailable_until_it_is_back(
        self, log: ServerLog, source: LogSource
    ) -> None:
        expected = await self.publish(log, 5)
        end = await self.start(source)
        await log.sever()
        async with asyncio.timeout(WAIT_TIMEOUT):
            assert (await self._problem(source, end)).problem
        await log.mend()
        found = await self._when_available(source, Position())
        assert offsets(found) == expected
        expected += await self.publish(log, 1, 5)
        assert offsets(await self._when_available(source, end)) == expected[5:]

    async def _problem(self, source: LogSource, position: Position) -> SourceUnavailable:
        while True:
            try:
                # A page that was on its way may come yet.
                await source.read(position)
            except SourceUnavailable as error:
                return error

    async def _when_available(self, source: LogSource, position: Position) -> list[Page]:
        async with asyncio.timeout(WAIT_TIMEOUT):
            while True:
                try:
                    return await pages(source, position)
                except SourceUnavailable:
                    await asyncio.sleep(0.05)
