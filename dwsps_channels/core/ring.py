"""The newest publications, within bounds: the oldest go, those of the largest publishers first."""

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Sequence
from itertools import islice
from operator import attrgetter

from dwsps_channels.core.entry import Entry
from dwsps_channels.core.evictions import Evictions
from dwsps_channels.core.fairness import make_room, room_of
from dwsps_channels.core.retention import Retention

# What an entry costs besides its topic and message.
ENTRY_BYTES = 400

_publisher = attrgetter("publisher")
_offset = attrgetter("offset")


class Ring:
    """Entries in the order of their offsets, within the bounds of ``retention``; ``None``: it keeps nothing.

    Entries that are too old go. If there are too many, or too many bytes, the largest publishers lose their oldest ones:
    a client that publishes without end displaces its own messages, not everybody's.
    """

    def __init__(self, retention: Retention | None) -> None:
        self._retention = retention
        self._size = 0
        # The messages of each publisher, but for so many of the newest: they are counted together when it matters.
        self._counts: Counter[str] = Counter()
        self._uncounted = 0
        self.entries: deque[Entry] = deque()
        """Those that are kept."""
        self.evictions = Evictions()
        """Those that are not kept any more."""

    @property
    def keeps(self) -> bool:
        """Return whether it keeps anything."""
        return self._retention is not None

    @property
    def messages(self) -> int:
        """Return how many entries it keeps."""
        return 0 if self._retention is None else self._retention.messages

    @property
    def seconds(self) -> float:
        """Return how long it keeps an entry."""
        return 0.0 if self._retention is None else self._retention.seconds

    def reset(self, floor: int) -> None:
        """Drop everything: what was published up to ``floor`` may be missing."""
        self.entries.clear()
        self._size = 0
        self._counts, self._uncounted = Counter(), 0
        self.evictions.reset(floor)

    def extend(self, entries: Sequence[Entry]) -> None:
        """Keep ``entries``, the next ones. Call ``evict`` soon after."""
        if self._retention is None:
            self.evictions.add(entries)
            return
        added = 0
        for entry in entries:
            publication = entry.publication
            entry.size = size = ENTRY_BYTES + len(publication.topic) + len(publication.message)
            added += size
        self._size += added
        self._uncounted += len(entries)
        self.entries += entries

    def after(self, offset: int, count: int) -> Sequence[Entry]:
        """Return the first ``count`` entries after ``offset``. It costs the least for those near one of the ends."""
        entries = self.entries
        start = bisect_right(entries, offset, key=_offset)
        left = len(entries) - start
        if start < left:
            return list(islice(entries, start, start + count))
        found = list(islice(reversed(entries), max(0, left - count), left))
        found.reverse()
        return found

    def evict(self, now: float) -> Sequence[Entry]:
        """Take out what is beyond the bounds at the time ``now``, and return it."""
        entries, retention = self.entries, self._retention
        if retention is None or not entries:
            return ()
        count = len(entries)
        limit = now - retention.seconds
        if entries[0].at >= limit and count <= retention.messages and self._size <= retention.bytes:
            return ()
        self._count()
        evicted: list[Entry] = []
        while entries and entries[0].at < limit:
            evicted.append(entries.popleft())
        if evicted:
            self._forget(evicted)
        if len(entries) > retention.messages:
            dropped = make_room(
                entries, room_of(retention.messages, count), by_size=False, shares=self._counts
            )
            self._forget(dropped)
            evicted += dropped
        if self._size > retention.bytes:
            dropped = make_room(entries, room_of(retention.bytes, count), by_size=True)
            self._forget(dropped)
            evicted += dropped
        return evicted

    def _count(self) -> None:
        """Count what is not counted yet."""
        newest = islice(reversed(self.entries), self._uncounted)
        self._counts.update(map(_publisher, newest))
        self._uncounted = 0

    def _forget(self, dropped: Sequence[Entry]) -> None:
        self._size -= sum([entry.size for entry in dropped])
        counts = self._counts
        for publisher, count in Counter(map(_publisher, dropped)).items():
            counts[publisher] -= count
            if not counts[publisher]:
                del counts[publisher]
        self.evictions.add(dropped)
