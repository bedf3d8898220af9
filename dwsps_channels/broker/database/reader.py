"""Reading the log from a process that does not serve."""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from time import monotonic, time
from typing import Final, TypeVar

from django.db import Error as DatabaseError
from django.db.models import QuerySet

from dwsps_channels.broker.database.paging import NoLogYet, read_end
from dwsps_channels.broker.database.roots import Roots
from dwsps_channels.broker.database.rows import decode
from dwsps_channels.core.log import Log, offset_of
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.replay import ReplayLimits
from dwsps_channels.models import LogEntry, LogState
from dwsps_channels.protocol.text import printable
from dwsps_channels.protocol.topics import contexts
from dwsps_channels.threads.database import again_if_broken, leaving_none_open

T = TypeVar("T")

# Rows that the first query asks for. Each further one asks for twice as many.
_FIRST: Final = 200


class DatabaseReader:
    """Reads the log of a ``DatabaseBroker``: see ``LogReader``. It uses the caller's connection to the database."""

    def __init__(self, using: str, roots: Roots, limits: ReplayLimits) -> None:
        self._using = using
        self._roots = roots
        self._limits = limits

    def cursor(self, deadline: float) -> str:
        """Return the cursor of the log's end: see ``LogReader.cursor``."""
        end = _asked(lambda: read_end(self._using))
        return f"{end.epoch}:{end.offset}"

    def load(
        self, topic: str, deadline: float, *, since: str | None = None, last: int | None = None
    ) -> Log:
        """Read what is kept at and below ``topic``: see ``LogReader.load``."""
        return _asked(lambda: self._load(topic, deadline, since, last))

    def _load(self, topic: str, deadline: float, since: str | None, last: int | None) -> Log:
        end = read_end(self._using)
        after = 0
        if since is not None:
            known = offset_of(since, end.epoch)
            if known is None or known > end.offset:
                return Log(end.epoch, end.offset, end.offset)
            after = known
        most = self._limits.messages + 1 if last is None else min(last, self._limits.messages)
        roots = self._roots.around(topic)
        now, size = time(), 0
        floor = None
        found: list[tuple[int, Publication]] = []
        ages: dict[int, float] = {}
        rows = LogEntry.objects.using(self._using).filter(
            root__in=roots, offset__gt=after, offset__lte=end.offset
        )
        for offset, at, data in _newest_first(rows):
            if monotonic() > deadline:
                raise TimeoutError
            publication = _read(data)
            if publication is None or len(found) >= most or size > self._limits.bytes:
                floor = offset
                break
            if topic in contexts(publication.topic):
                found.append((offset, publication))
                ages[offset] = now - at
                size += len(data)
        if floor is None:
            # Looked up afterwards: what was removed meanwhile has raised it.
            floor = self._floor(roots)
        found.reverse()
        return Log(end.epoch, end.offset, floor, found, ages=ages)

    def _floor(self, roots: Collection[str]) -> int:
        states = LogState.objects.using(self._using).filter(pk=1)
        floors = states.values_list("floors", flat=True).first() or {}
        return max((floors.get(root, 0) for root in roots), default=0)

    def close(self) -> None:
        """Do nothing: the connection is the caller's."""


def _newest_first(
    entries: "QuerySet[LogEntry]",
) -> Iterator[tuple[int, float, bytes | memoryview]]:
    """Yield ``entries``, as far as they are asked for.

    Not in one query: PostgreSQL would copy the whole log before the first row, and MySQL's client would keep it in memory.
    """
    rows = entries.order_by("-offset").values_list("offset", "at", "data")
    count, some = _FIRST, list(rows[:_FIRST])
    while some:
        yield from some
        last, is_end = some[-1][0], len(some) < count
        count *= 2
        some = [] if is_end else list(rows.filter(offset__lt=last)[:count])


def _read(data: bytes | memoryview) -> Publication | None:
    try:
        return decode(data)
    except ValueError:
        return None


def _asked(query: Callable[[], T]) -> T:
    """Return what ``query`` returns; raise its errors as the contract has them.

    A connection that broke, or that is too old, is replaced.
    """
    try:
        return leaving_none_open(partial(again_if_broken, query))
    except NoLogYet:
        raise ConnectionError("the server has not written its log yet") from None
    except DatabaseError as error:
        raise ConnectionError(printable(str(error)).strip() or type(error).__name__) from error
