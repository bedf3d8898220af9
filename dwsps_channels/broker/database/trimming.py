"""Keeping the log within its bounds."""

from collections.abc import Iterable, Iterator
from time import time
from typing import Final

from django.db.models import Count, Sum

from dwsps_channels.broker.database.rows import Row
from dwsps_channels.broker.database.table import LogTable

# Rows that are removed in one go: more than the largest batch adds.
STEP: Final = 2000

# How far a root may be beyond its bounds, so that not every batch removes some.
SLACK: Final = 1 / 32


class Trimmer:
    """Removes the oldest publications of each root that is over its bounds, some at a time."""

    def __init__(self, table: LogTable, holder: str) -> None:
        self._table = table
        self._holder = holder
        self._forget()

    def _forget(self) -> None:
        self._counts = dict.fromkeys(self._table.roots.log, 0)
        self._sizes = dict.fromkeys(self._table.roots.log, 0)
        # By root: no publication is older, as far as known.
        self._oldest = dict.fromkeys(self._table.roots.log, 0.0)

    def begin(self) -> None:
        """Count what is there."""
        self._forget()
        counted = self._table.entries.values_list("root").annotate(
            count=Count("offset"), size=Sum("size")
        )
        for root, count, size in counted.order_by():
            if root in self._counts:
                self._counts[root] = count
                self._sizes[root] = int(size)  # MySQL sums to a Decimal

    def add(self, rows: Iterable[Row]) -> None:
        """Count what was appended."""
        for row in rows:
            self._counts[row.root] += 1
            self._sizes[row.root] += row.size

    def over(self, slack: float = 0.0) -> Iterator[str]:
        """Yield the roots that are beyond their bounds by more than this part of them."""
        now = time()
        for root, bounds in self._table.roots.log.items():
            if (
                self._counts[root] > bounds.messages * (1 + slack)
                or self._sizes[root] > bounds.bytes * (1 + slack)
                or (self._counts[root] and self._oldest[root] < now - bounds.seconds * (1 + slack))
            ):
                yield root

    def step(self, root: str) -> bool:
        """Remove some of a root that is over its bounds; return whether there may be more to remove.

        Raises:
            LeaseLost: this process has the lease no more.
        """
        bounds = self._table.roots.log[root]
        limit = time() - bounds.seconds
        count, size = self._counts[root], self._sizes[root]
        oldest = self._table.entries.filter(root=root).order_by("offset")
        last = None
        for offset, at, its_size in oldest.values_list("offset", "at", "size")[:STEP]:
            self._oldest[root] = at
            if not (count > bounds.messages or size > bounds.bytes or at < limit):
                break
            last = offset
            count -= 1
            size -= its_size
        if last is None:
            return False
        self._table.remove(root, last, self._holder)
        removed = self._counts[root] - count
        self._counts[root], self._sizes[root] = count, size
        return removed == STEP
