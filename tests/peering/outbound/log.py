"""A log in memory, as a test writes it, and the source that reads it."""

import asyncio
import time
from collections.abc import Sequence

from msgspec import Raw
from msgspec.json import encode

from dwsps_channels.core.log_source import PAGE_BYTES, PAGE_MESSAGES, SourceUnavailable
from dwsps_channels.core.page import OVERLAP, Logged, Page, Position
from dwsps_channels.core.publication import Publication

ORIGIN = "0" * 32
TIMESTAMP = "2026-01-02T03:04:05.678Z"


def publication(number: int, topic: str = "news", message: object = None) -> Publication:
    """Make the publication with the sequence ``number``. Its message is the number, if no other is given."""
    encoded = Raw(encode(number if message is None else message))
    return Publication(topic, encoded, TIMESTAMP, ORIGIN, number)


class LogInMemory:
    """See ``LogSource``. An empty page comes after ``wait`` seconds."""

    def __init__(self, epoch: str = "log", wait: float = 0.05) -> None:
        self.epoch = epoch
        self.end = 0
        self.entries: list[Logged] = []
        self.problem: str | None = None
        """Why the log cannot be read; ``None``: it can."""
        self.reads: list[Position] = []
        """The positions that were read from."""
        self.is_closed = False
        self._wait = wait
        self._grown = asyncio.Event()

    def append(self, publication: Publication, at: float | None = None) -> None:
        """Append what was published on this server at ``at``, or is now."""
        self.end += 1
        self.entries.append(Logged(self.end, time.time() if at is None else at, publication))
        self._grow()

    def append_foreign(self) -> None:
        """Append what a peer has sent."""
        self.end += 1
        self._grow()

    def trim(self, offset: int) -> None:
        """Forget everything up to ``offset``."""
        self.entries = [entry for entry in self.entries if entry.offset > offset]
        self._floor = offset

    def begin_again(self, epoch: str, entries: Sequence[Logged] = ()) -> None:
        """Begin another log, which has ``entries``."""
        self.epoch, self.entries, self._floor = epoch, list(entries), 0
        self.end = self.entries[-1].offset if entries else 0
        self._grow()

    _floor = 0

    def _grow(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()

    async def read(
        self, position: Position, *, messages: int = PAGE_MESSAGES, size: int = PAGE_BYTES
    ) -> Page:
        """See ``LogSource.read``."""
        self.reads.append(position)
        await asyncio.sleep(0)
        if self.problem is not None:
            raise SourceUnavailable(self.problem)
        page = self._page(position, messages)
        if page.cursor == position.cursor:
            grown = self._grown
            try:
                async with asyncio.timeout(self._wait):
                    await grown.wait()
            except TimeoutError:
                pass
            page = self._page(position, messages)
        return page

    def _page(self, position: Position, messages: int) -> Page:
        epoch, _, offset = position.cursor.rpartition(":")
        restarted = epoch != self.epoch
        if restarted:
            following = [each for each in self.entries if each.at >= position.at - OVERLAP]
            missed = 0
        else:
            following = [each for each in self.entries if each.offset > int(offset)]
            missed = max(0, self._floor - int(offset))
        entries = following[:messages]
        reaches_end = len(entries) == len(following)
        last = self.end if reaches_end else entries[-1].offset
        at = time.time() if reaches_end else entries[-1].at
        return Page(entries, f"{self.epoch}:{last}", at, self.end, missed, restarted)

    async def close(self) -> None:
        """See ``LogSource.close``."""
        self.is_closed = True
