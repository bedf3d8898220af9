"""The log, as all links read it: equal reads are one, and a read waits until the log can be read."""

import asyncio
import logging
from time import time

from msgspec.structs import replace

from dwsps_channels.client import Backoff
from dwsps_channels.core.log_source import LogSource, SourceUnavailable
from dwsps_channels.core.page import Page, Position
from dwsps_channels.peering.outbound.message import MessagePage
from dwsps_channels.peering.outbound.window import PAGE_BYTES, PAGE_MESSAGES
from dwsps_channels.protocol.text import printable

logger = logging.getLogger("dwsps_channels.peering")

# The log is near, and messages wait in it: it is tried often.
BACKOFF_BASE = 0.1
BACKOFF_CAP = 2.0

# A restart of the server or of Redis is routine: only a longer outage is worth a warning.
ROUTINE_GRACE = 5.0


# For so long a page tells where the log ends.
LOOK_INTERVAL = 1.0


class SharedSource:
    """Reads from a source for several links. Links that are at the same place share one read."""

    def __init__(self, source: LogSource) -> None:
        """Read from ``source``. ``close`` closes it."""
        self._source = source
        self._reads: dict[tuple[Position, int], _Read] = {}
        # The page that was read last, without its entries, and when, by the loop's clock.
        self._latest: tuple[Page, float] | None = None
        # The time since which nothing can be read, in seconds since the epoch, and the level and text of the last log line.
        self._failed_at: float | None = None
        self._logged: tuple[int, str] | None = None

    @property
    def outage(self) -> tuple[float, str] | None:
        """The time since which the log cannot be read, in seconds since the epoch, and why; ``None``: it can, or could lately."""
        if self._failed_at is None or self._logged is None:
            return None
        if time() - self._failed_at < ROUTINE_GRACE:
            return None
        return self._failed_at, self._logged[1]

    async def read(self, position: Position, messages: int = PAGE_MESSAGES) -> MessagePage:
        """Return what follows ``position``: a page without messages if nothing does within a second.

        While the log cannot be read, this waits.
        """
        key = position, messages
        read = self._reads.get(key)
        if read is None:
            read = self._reads[key] = _Read(asyncio.create_task(self._read(position, messages)))
        read.links += 1
        try:
            return await asyncio.shield(read.task)
        finally:
            read.links -= 1
            # The read ends with the last link that waits for it, and nobody joins one that ends.
            if read.task.done() or not read.links:
                read.task.cancel()
                if self._reads.get(key) is read:
                    del self._reads[key]

    async def look(self, position: Position) -> Page:
        """Return a page that tells where the log ends by now: one that some link has just read, or the next after ``position``.

        So links that wait for their peers cost no more than one read a second together.
        """
        now = asyncio.get_running_loop().time()
        if self._latest is not None and now - self._latest[1] < LOOK_INTERVAL:
            return self._latest[0]
        return (await self.read(position, messages=1)).page

    async def close(self) -> None:
        """End the reads, and close the source."""
        tasks = [read.task for read in self._reads.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._source.close()

    async def _read(self, position: Position, messages: int) -> MessagePage:
        backoff = Backoff(BACKOFF_BASE, BACKOFF_CAP)
        while True:
            try:
                page = await self._source.read(position, messages=messages, size=PAGE_BYTES)
            except SourceUnavailable as error:
                self._note_failure(printable(error.problem))
            except Exception as error:
                # A defect, ours or a source's. It is shown: otherwise forwarding would just stop.
                if self._failed_at is None:
                    logger.exception("the log could not be read; trying again")
                self._note_failure(f"reading failed: {type(error).__name__}")
            else:
                self._note_success()
                self._latest = replace(page, entries=()), asyncio.get_running_loop().time()
                return MessagePage.of(page)
            await asyncio.sleep(backoff.pause(backoff.attempt))
            backoff.attempt += 1

    def _note_failure(self, problem: str) -> None:
        if self._failed_at is None:
            self._failed_at = time()
        is_brief = time() - self._failed_at < ROUTINE_GRACE
        level = logging.INFO if is_brief else logging.WARNING
        if self._logged != (level, problem):
            self._logged = level, problem
            logger.log(level, "the log cannot be read: %s; trying again", problem)

    def _note_success(self) -> None:
        if self._failed_at is not None:
            logger.info("the log can be read again")
        self._failed_at = self._logged = None


class _Read:
    """A read, and the number of links that wait for it."""

    def __init__(self, task: asyncio.Task[MessagePage]) -> None:
        self.task = task
        self.links = 0
