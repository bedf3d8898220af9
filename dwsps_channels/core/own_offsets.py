"""Memory of the offsets of what was published on this server, so that what is missing can be counted."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

# They take 8 bytes each.
MAX_OFFSETS: Final = 65_536


class OwnOffsets:
    """Counts publications of this server between two offsets, kept or not, and without those of peers.

    The newest ``limit`` offsets are known, or a few more. Of what is older every offset counts.
    """

    def __init__(self, limit: int = MAX_OFFSETS) -> None:
        self._limit = limit
        self._offsets = array("q")
        self.floor = 0
        """Everything after this offset is known."""

    def reset(self, floor: int) -> None:
        """Forget everything: what is after ``floor`` is added next."""
        self._offsets = array("q")
        self.floor = floor

    def extend(self, offsets: Iterable[int]) -> None:
        """Add ``offsets``, the next ones, in order."""
        known = self._offsets
        known.extend(offsets)
        # Not for each: the rest is moved.
        if len(known) > self._limit + self._limit // 4 + 1:
            surplus = len(known) - self._limit
            self.floor = known[surplus - 1]
            del known[:surplus]

    def between(self, after: int, until: int) -> int:
        """Return how many offsets there are after ``after``, up to ``until``."""
        known, floor = self._offsets, self.floor
        count = bisect_right(known, until) - bisect_right(known, max(after, floor))
        return max(0, count) + max(0, min(until, floor) - after)
