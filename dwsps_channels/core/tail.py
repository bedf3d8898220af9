"""The newest part of the log, in the memory of this process."""

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from heapq import merge
from itertools import islice, takewhile
from operator import attrgetter
from time import time
from typing import Final

from msgspec import Struct

from dwsps_channels.core.context_index import ContextIndex
from dwsps_channels.core.entry import Entry
from dwsps_channels.core.fairness import OWN
from dwsps_channels.core.log import Log
from dwsps_channels.core.own_offsets import MAX_OFFSETS, OwnOffsets
from dwsps_channels.core.page import Logged
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.retention import Retention
from dwsps_channels.core.ring import Ring
from dwsps_channels.protocol.topics import contexts

# So many new entries are taken in at once: one by one would cost each publish more.
MAX_FRESH: Final = 32

# What is published below roots that are not kept. A worker that reads has it within this; clients never have.
PASSING: Final = Retention(messages=1000, bytes=1024 * 1024, seconds=10.0)

_by_offset = attrgetter("offset")


class TailPage(Struct, frozen=True):
    """A part of the tail, without what peers have sent: see ``Page``."""

    entries: Sequence[Logged]
    until: int
    """The offset up to which the page goes."""
    at: float
    missed: int


class Tail:
    """Keeps what was published: for clients that resume, and for workers, page by page.

    A publication is kept within the bounds of ``history`` for the longest of its roots that its topic is at or below,
    else within those of ``retention``. ``None`` for a root keeps nothing there for clients; for workers: ``PASSING``.
    """

    def __init__(
        self,
        retention: Retention | None = None,
        history: Mapping[str, Retention | None] = {},
        clock: Callable[[], float] = time,
    ) -> None:
        self._clock = clock
        # What has no root, and what each root has.
        self._ring = Ring(retention or Retention())
        self._roots = {root: Ring(each) for root, each in history.items()}
        self._rings = [self._ring, *self._roots.values()]
        self._passing = Ring(PASSING)
        kept = sum(ring.messages for ring in self._rings)
        self._own = OwnOffsets(max(MAX_OFFSETS, 2 * kept))
        # What is in no ring yet.
        self._fresh: list[Entry] = []
        # Made when somebody recovers, and dropped if nobody has for long.
        self._index: ContextIndex | None = None
        self.counted = 0
        """The number of publications without an offset."""

    def append(
        self, publication: Publication, offset: int | None = None, at: float | None = None
    ) -> Entry:
        """Keep a publication that entered at ``at``, or enters now. ``offset``: see ``Receiver.receive``."""
        if offset is None:
            self.counted = offset = self.counted + 1
        publisher = OWN if publication.from_peer_server else publication.publisher
        entry = Entry(offset, publication, publisher, self._clock() if at is None else at)
        fresh = self._fresh
        fresh.append(entry)
        if len(fresh) >= MAX_FRESH:
            self._settle()
        return entry

    def begin(self, log: Log, left_out: Collection[int] = ()) -> None:
        """Keep what ``log`` holds, except at the offsets ``left_out``, and nothing from before."""
        self._fresh = []
        self._index = None
        self._ring.reset(log.floor)
        self._passing.reset(log.floor)
        for root, ring in self._roots.items():
            # What is published below a root that is not kept need not be in the log.
            ring.reset(log.floors.get(root, log.floor) if ring.keeps else log.offset)
        first = max(log.floor, log.offset - MAX_OFFSETS)
        own: list[int] = []
        expected = first + 1
        now, ages = self._clock(), log.ages
        for offset, publication in log.publications:
            is_left_out = offset in left_out
            if not is_left_out:
                self.append(publication, offset, now - ages.get(offset, 0.0))
            if offset >= expected:
                # What is not in the log may have been published on this server.
                own += range(expected, offset)
                if not (is_left_out or publication.from_peer_server):
                    own.append(offset)
                expected = offset + 1
        own += range(expected, log.offset + 1)
        self._settle()
        self._own.reset(first)
        self._own.extend(own)

    def recover(self, topics: Iterable[str], after: int) -> list[tuple[str, Sequence[Entry]]]:
        """Return each of ``topics`` of which nothing is missing, with what was published there after the offset ``after``."""
        self._settle()
        index = self._indexed()
        found = []
        for topic in topics:
            if self._last_evicted(topic) <= after:
                below = index.below(topic)
                found.append((topic, below[bisect_right(below, after, key=_by_offset) :]))
        return found

    def last(self, topic: str, count: int, denied: frozenset[str] = frozenset()) -> Sequence[Entry]:
        """Return the last ``count`` that are kept at and below ``topic``, but not at and below ``denied``."""
        self._settle()
        found: list[Entry] = []
        if count > 0:
            for entry in reversed(self._indexed().below(topic)):
                if entry.kept and (
                    not denied or denied.isdisjoint(contexts(entry.publication.topic))
                ):
                    found.append(entry)
                    if len(found) == count:
                        break
            found.reverse()
        return found

    def page(self, after: int, end: int, messages: int, size: int) -> TailPage:
        """Return what was published on this server after the offset ``after``, up to ``end``, the last one of the log.

        So many ``messages`` at most, of ``size`` bytes; but one in any case, if there is one.
        """
        self._settle()
        own = self._own
        entries: list[Logged] = []
        at = 0.0
        until, count, uncounted = after, messages + 1, 0
        is_end = is_full = False
        while not (is_end or is_full):
            found = self._after(until, count)
            is_end = len(found) < count
            for entry in found:
                if not entry.publication.from_peer_server:
                    size -= entry.size
                    if entries and (size < 0 or len(entries) == messages):
                        is_full = True
                        break
                    entries.append(Logged(entry.offset, entry.at, entry.publication))
                elif entry.offset <= own.floor:
                    uncounted += 1
                until, at = entry.offset, entry.at
            # Perhaps all of them were of peers.
            count *= 2
        if not is_full:
            until, at = max(until, end), self._clock()
        missed = own.between(after, until) - len(entries) - uncounted
        return TailPage(entries, until, at, missed)

    def before(self, at: float, end: int) -> int:
        """Return the offset after which everything is that was kept, and appended at ``at`` or later.

        ``end`` is the last offset of the log.
        """
        self._settle()
        # From the start: a clock may have been set back.
        first = [
            next((entry.offset for entry in ring.entries if entry.at >= at), end + 1)
            for ring in (*self._rings, self._passing)
        ]
        return min(first) - 1

    def _after(self, offset: int, count: int) -> Sequence[Entry]:
        """Return the first ``count`` entries after ``offset``."""
        if not self._roots:
            return self._ring.after(offset, count)
        found = [ring.after(offset, count) for ring in (*self._rings, self._passing)]
        return list(islice(merge(*found, key=_by_offset), count))

    def __len__(self) -> int:
        """Return the number of publications that are kept."""
        self._settle()
        return sum(len(ring.entries) for ring in self._rings)

    def _settle(self) -> None:
        """Take what is fresh into the rings, and evict what is beyond their bounds."""
        if fresh := self._fresh:
            self._fresh = []
            self._own.extend(
                [entry.offset for entry in fresh if not entry.publication.from_peer_server]
            )
            if not self._roots:
                self._ring.extend(fresh)
            else:
                for entry in fresh:
                    ring = self._ring_of(entry.publication.topic)
                    ring.extend((entry,))
                    if not ring.keeps:
                        self._passing.extend((entry,))
        now = self._clock()
        for ring in self._rings:
            evicted = ring.evict(now)
            if evicted and self._index is not None and not self._index.evict(evicted):
                self._index = None
        if self._roots:
            self._passing.evict(now)

    def _ring_of(self, topic: str) -> Ring:
        roots = self._roots
        for context in contexts(topic):
            if (ring := roots.get(context)) is not None:
                return ring
        return self._ring

    def _last_evicted(self, topic: str) -> int:
        """Return the last offset that may be missing at or below ``topic``; 0: nothing is."""
        if not self._roots:
            return self._ring.evictions.latest(topic)
        below = topic + "."
        last = self._ring_of(topic).evictions.latest(topic)
        for root, ring in self._roots.items():
            if root.startswith(below):
                last = max(last, ring.evictions.latest(topic))
        return last

    def _indexed(self) -> ContextIndex:
        """Return the index, brought up to date."""
        index = self._index
        if index is None:
            index = self._index = ContextIndex()
        end = index.end
        new: list[Entry] = []
        for ring in self._rings:
            new += takewhile(lambda entry: entry.offset > end, reversed(ring.entries))
        if new:
            new.sort(key=_by_offset)
            index.add(new)
        return index
