"""The log in the database as a source for the worker."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from django.db import Error as DatabaseError
from django.db import connections

from dwsps_channels.broker.database.connection import commit_by_itself
from dwsps_channels.broker.database.paging import End, NoLogYet, read_end, read_page
from dwsps_channels.core.log import offset_of
from dwsps_channels.core.log_source import PAGE_BYTES, PAGE_MESSAGES, WAIT, SourceUnavailable
from dwsps_channels.core.page import Page, Position
from dwsps_channels.protocol.text import printable

T = TypeVar("T")

# Seconds between two looks at the log's end, while somebody waits for it to grow.
POLL_INTERVAL: Final = 0.05


class DatabaseSource:
    """Reads the log of a ``DatabaseBroker``: see ``LogSource``. It has a thread, with a connection to the database.

    Reads that wait for something share one query, which looks at the end of the log.
    """

    def __init__(self, using: str) -> None:
        self._using = using
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dwsps-log-source")
        # Those that wait, with the end that they have read to.
        self._waiting: dict[asyncio.Future[None], End] = {}
        self._polling: asyncio.Task[None] | None = None

    async def read(
        self, position: Position, *, messages: int = PAGE_MESSAGES, size: int = PAGE_BYTES
    ) -> Page:
        """Return what follows ``position``: see ``LogSource.read``."""
        ends = asyncio.get_running_loop().time() + WAIT
        page = await self._call(partial(read_page, self._using, position, messages, size))
        while not page.entries and await self._wait(page, ends):
            found = await self._call(partial(read_page, self._using, page.position, messages, size))
            page = _joined(page, found)
        return page

    async def _wait(self, page: Page, ends: float) -> bool:
        """Wait until the log goes on after ``page``; ``False``: it did not in time."""
        loop = asyncio.get_running_loop()
        waiting = loop.create_future()
        epoch = page.cursor.partition(":")[0]
        self._waiting[waiting] = End(epoch, offset_of(page.cursor, epoch) or 0)
        if self._polling is None or self._polling.done():
            self._polling = loop.create_task(self._poll())
        try:
            async with asyncio.timeout_at(ends):
                await waiting
        except TimeoutError:
            return False
        finally:
            del self._waiting[waiting]
        return True

    async def _poll(self) -> None:
        """Wake those that wait, as soon as there is something for them."""
        while self._waiting:
            await asyncio.sleep(POLL_INTERVAL)
            problem: SourceUnavailable | None = None
            end = None
            try:
                end = await self._call(partial(read_end, self._using))
            except SourceUnavailable as error:
                problem = error
            for waiting, known in self._waiting.items():
                if waiting.done():
                    continue
                if problem is not None:
                    waiting.set_exception(problem)
                elif end != known:
                    waiting.set_result(None)

    async def _call(self, query: Callable[[], T]) -> T:
        """Make a query in the thread. If its caller is cancelled it ends there nevertheless."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._careful, query)
        except NoLogYet:
            raise SourceUnavailable("the server has not written its log yet") from None
        except DatabaseError as error:
            raise SourceUnavailable(
                printable(str(error)).strip() or type(error).__name__
            ) from error

    def _careful(self, query: Callable[[], T]) -> T:
        try:
            commit_by_itself(
                self._using
            )  # else it would look at one state of the database for ever
            return query()
        except DatabaseError:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        connections[self._using].close()

    async def close(self) -> None:
        """Close the connection: see ``LogSource.close``."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling])
        with suppress(DatabaseError, RuntimeError):  # RuntimeError: it is closed
            await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)


def _joined(one: Page, other: Page) -> Page:
    """Return the page that begins with ``one``, which is empty, and goes on with ``other``."""
    return Page(
        entries=other.entries,
        cursor=other.cursor,
        at=other.at,
        end=other.end,
        missed=one.missed + other.missed,
        restarted=one.restarted or other.restarted,
    )
