"""Loading a part of the log."""

from collections.abc import Iterator
from itertools import chain
from time import time
from typing import Final

from django.db.models import QuerySet

from dwsps_channels.broker.database.roots import REST, Roots
from dwsps_channels.broker.database.rows import decode
from dwsps_channels.core.keys import DURABLE_KEYS, DURABLE_MAX_AGE, MAX_AGE, MAX_KEYS
from dwsps_channels.core.log import Log
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.retention import Retention
from dwsps_channels.models import LogEntry

_CHUNK: Final = 500


def load_tail(
    entries: "QuerySet[LogEntry]",
    roots: Roots,
    epoch: str,
    offset: int,
    floors: dict[str, int],
) -> Log:
    """Load what a tail keeps of the log up to ``offset``. ``floors`` are those of the log, by root."""
    now = time()
    found: list[tuple[int, Publication]] = []
    ages: dict[int, float] = {}
    tail_floors = {}
    for root, bounds in roots.tail.items():
        ours = entries.filter(root=root, offset__lte=offset).order_by("-offset")
        floor = floors.get(root, offset)
        size = 0
        # One more than is kept: it tells where that begins.
        rows = ours.values_list("offset", "at", "size", "data")[: bounds.messages + 1]
        for count, (its_offset, at, its_size, data) in enumerate(rows.iterator(_CHUNK), 1):
            size += its_size
            if _is_over(bounds, count, size, now - at) or (publication := _read(data)) is None:
                floor = its_offset
                break
            found.append((its_offset, publication))
            ages[its_offset] = now - at
        tail_floors[root] = floor
    found.sort(key=lambda each: each[0])
    return Log(epoch, offset, tail_floors.pop(REST), found, tail_floors, ages)


def _is_over(bounds: Retention, count: int, size: int, age: float) -> bool:
    return count > bounds.messages or size > bounds.bytes or age > bounds.seconds


def _read(data: bytes | memoryview) -> Publication | None:
    try:
        return decode(data)
    except ValueError:
        return None


def load_keys(entries: "QuerySet[LogEntry]") -> Iterator[tuple[str, int]]:
    """Return the keys that are to be remembered, each with its offset, the oldest first of either kind."""
    durable = entries.filter(key__startswith=DURABLE_KEYS)
    return chain(_load_keys(entries, MAX_AGE), _load_keys(durable, DURABLE_MAX_AGE))


def _load_keys(entries: "QuerySet[LogEntry]", max_age: float) -> Iterator[tuple[str, int]]:
    since = time() - max_age
    newest: list[tuple[str, int]] = []
    rows = entries.order_by("-offset").values_list("key", "offset", "at")
    for key, offset, at in rows.iterator(_CHUNK):
        if at < since or len(newest) >= MAX_KEYS:
            break
        if key:
            newest.append((key, offset))
    return reversed(newest)
