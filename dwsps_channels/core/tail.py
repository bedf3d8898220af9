"""The newest part of the log, in the memory of this process."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import takewhile
from operator import attrgetter
from time import time
from typing import Final

from dwsps_channels.core.context_index import ContextIndex
from dwsps_channels.core.entry import Entry
from dwsps_channels.core.fairness import OWN
from dwsps_channels.core.log import Log
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.retention import Retention
from dwsps_channels.core.ring import Ring
from dwsps_channels.protocol.topics import contexts

Cursor = Mapping[str, int]
"""The place up to which a worker has read: for each origin the sequence of its last publication."""

# So many new entries are taken in at once: one by one would cost each publish more.
MAX_FRESH: Final = 32

_by_offset = attrgetter("offset")


class Tail:
    """Keeps what was published: for clients that resume, and for a worker that is away.

    A publication is kept within the bounds of ``history`` for the longest of its roots that its topic is at or below,
    else within those of ``retention``. ``None`` for a root keeps nothing there.
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
        # What is in no ring yet.
        self._fresh: list[Entry] = []
        # Made when somebody recovers, and dropped if nobody has for long.
        self._index: ContextIndex | None = None
        # The number of publications without an offset.
        self._counted = 0

    def append(
        self, publication: Publication, offset: int | None = None, at: float | None = None
    ) -> Entry:
        """Keep a publication that entered at ``at``, or enters now. ``offset``: see ``Receiver.receive``."""
        if offset is None:
            self._counted = offset = self._counted + 1
        publisher = OWN if publication.from_peer_server else publication.publisher
        entry = Entry(offset, publication, publisher, self._clock() if at is None else at)
        fresh = self._fresh
        fresh.append(entry)
        if len(fresh) >= MAX_FRESH:
            self._settle()
        return entry

    def begin(self, log: Log) -> None:
        """Keep what ``log`` holds, and nothing from before."""
        self._fresh = []
        self._index = None
        self._ring.reset(log.floor)
        for root, ring in self._roots.items():
            # What is published below a root that is not kept need not be in the log.
            ring.reset(log.floors.get(root, log.floor) if ring.keeps else log.offset)
        now, ages = self._clock(), log.ages
        for offset, publication in log.publications:
            self.append(publication, offset, now - ages.get(offset, 0.0))

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

    def last(self, topic: str, count: int) -> Sequence[Entry]:
        """Return the last ``count`` that are kept at and below ``topic``."""
        self._settle()
        found: list[Entry] = []
        if count > 0:
            for entry in reversed(self._indexed().below(topic)):
                if entry.kept:
                    found.append(entry)
                    if len(found) == count:
                        break
            found.reverse()
        return found

    def after(self, cursor: Cursor, since: float) -> Iterator[Entry]:
        """Yield what was published on this server and is kept beyond ``cursor``, in order.

        Of an origin that is not in it, that is what entered at or after ``since``.
        """
        self._settle()
        for entry in merge(*(ring.entries for ring in self._rings), key=_by_offset):
            publication = entry.publication
            if publication.from_peer_server:
                continue
            reached = cursor.get(publication.origin)
            if entry.at >= since if reached is None else publication.sequence > reached:
                yield entry

    def __len__(self) -> int:
        """Return the number of publications that are kept."""
        self._settle()
        return sum(len(ring.entries) for ring in self._rings)

    def _settle(self) -> None:
        """Take what is fresh into the rings, and evict what is beyond their bounds."""
        if fresh := self._fresh:
            self._fresh = []
            if not self._roots:
                self._ring.extend(fresh)
            else:
                for entry in fresh:
                    self._ring_of(entry.publication.topic).extend((entry,))
        now = self._clock()
        for ring in self._rings:
            evicted = ring.evict(now)
            if evicted and self._index is not None and not self._index.evict(evicted):
                self._index = None

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
