"""Reading the log page by page, for the worker."""

from collections.abc import Iterator
from time import time
from typing import Final

from msgspec import Struct

from dwsps_channels.broker.database.rows import decode
from dwsps_channels.core.log import offset_of
from dwsps_channels.core.page import OVERLAP, Logged, Page, Position
from dwsps_channels.models import LogEntry, LogState

# Rows in memory at once, where the database can do that: they may be large.
_CHUNK: Final = 64


class NoLogYet(Exception):
    """No process has ever written the log."""


class End(Struct, frozen=True):
    """The end of the log."""

    epoch: str
    offset: int


def read_end(using: str) -> End:
    """Read the end of the log in the database ``using``.

    Raises:
        NoLogYet: no process has ever written the log.
    """
    found = LogState.objects.using(using).filter(pk=1).values_list("epoch", "offset").first()
    if found is None:
        raise NoLogYet
    return End(*found)


def read_page(using: str, position: Position, messages: int, size: int) -> Page:
    """Read what follows ``position``: see ``LogSource.read``. If nothing does, the page is empty.

    Raises:
        NoLogYet: there is no log.
    """
    # First: what comes meanwhile is on the page, or on the next one.
    end = read_end(using)
    now = time()
    after = offset_of(position.cursor, end.epoch)
    is_known = after is not None and after <= end.offset
    if after is None or not is_known:
        after = _offset_before(using, position.at - OVERLAP, end)
    entries: list[Logged] = []
    read, at, found = after, position.at, 0
    is_full = False
    for offset, its_at, data in _rows(using, after, messages + 1):
        try:
            publication = decode(data)
        except ValueError:
            continue  # counted as missed
        if not publication.from_peer_server:
            length = len(memoryview(publication.message))
            if entries and (len(entries) >= messages or length > size):
                is_full = True
                break
            size -= length
            entries.append(Logged(offset, its_at, publication))
        read, at, found = offset, its_at, found + 1
    if not is_full:
        read, at = max(read, end.offset), now
    return Page(
        entries=entries,
        cursor=f"{end.epoch}:{read}",
        at=at,
        end=max(end.offset, read),
        missed=read - after - found,
        restarted=not is_known,
    )


def _rows(using: str, after: int, count: int) -> Iterator[tuple[int, float, bytes | memoryview]]:
    """Yield what follows the offset ``after``, read in portions of ``count``."""
    rows = LogEntry.objects.using(using).order_by("offset")
    left = 0
    while not left:
        left = count
        some = rows.filter(offset__gt=after).values_list("offset", "at", "data")[:count]
        for row in some.iterator(_CHUNK):
            yield row
            after = row[0]
            left -= 1


def _offset_before(using: str, since: float, end: End) -> int:
    """Return the offset before the first publication that was appended at or after ``since``."""
    rows = LogEntry.objects.using(using).filter(at__gte=since, offset__lte=end.offset)
    first = rows.order_by("offset").values_list("offset", flat=True).first()
    return end.offset if first is None else first - 1
