"""The newest publications of this server, kept for a worker that is away."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from time import time

from msgspec import Struct

from dwsps_channels.core.fairness import make_room, room_of
from dwsps_channels.core.log import Log
from dwsps_channels.core.publication import Publication

Cursor = Mapping[str, int]
"""The place up to which a reader has read: for each origin the sequence of its last publication."""

# What an entry costs besides its topic and message.
_ENTRY_BYTES = 400


class Entry(Struct, frozen=True, gc=False):
    """A publication that was kept."""

    at: float
    """When it entered, in seconds since the epoch."""
    publication: Publication
    offset: int | None
    """Its place in the log; ``None``: the broker has no log."""
    publisher: str
    """The id of its publisher; each has a share of the tail."""
    size: int
    """The bytes that it takes, nearly."""


class Tail:
    """Keeps at most ``messages``, of ``size`` bytes together, for ``max_age`` seconds.

    Messages that are too old go. If there are too many, or too many bytes, the largest publishers lose their oldest ones:
    a client that publishes without end displaces its own messages, not everybody's.
    """

    def __init__(
        self,
        messages: int = 10_000,
        size: int = 16 * 1024 * 1024,
        max_age: float = 300.0,
        clock: Callable[[], float] = time,
    ) -> None:
        self._messages = messages
        self._size = size
        self._max_age = max_age
        self._clock = clock
        self._entries: deque[Entry] = deque()
        self._kept = 0

    def append(self, publication: Publication, offset: int | None = None) -> Entry:
        """Keep a publication that enters now."""
        at = self._clock()
        size = _ENTRY_BYTES + len(publication.topic) + len(publication.message)
        entry = Entry(at, publication, offset, publication.publisher, size)
        entries = self._entries
        entries.append(entry)
        self._kept = kept = self._kept + size
        if kept > self._size or len(entries) > self._messages:
            self._make_room()
        while entries and entries[0].at < at - self._max_age:
            self._kept -= entries.popleft().size
        return entry

    def _make_room(self) -> None:
        entries = self._entries
        count = len(entries)
        if count > self._messages:
            dropped = make_room(entries, room_of(self._messages, count), by_size=False)
            self._kept -= sum(entry.size for entry in dropped)
        if self._kept > self._size:
            dropped = make_room(entries, room_of(self._size, count), by_size=True)
            self._kept -= sum(entry.size for entry in dropped)

    def begin(self, log: Log) -> None:
        """Keep what ``log`` holds, and nothing from before."""
        self._entries.clear()
        self._kept = 0
        for offset, publication in log.publications:
            self.append(publication, offset)

    def after(self, cursor: Cursor, since: float) -> Iterator[Entry]:
        """Yield what was published here and is kept beyond ``cursor``, in order; of an origin that is not in it, what entered at or after ``since``."""
        for entry in self._entries:
            if entry.publication.from_peer_server:
                continue  # one hop
            reached = cursor.get(entry.publication.origin)
            if entry.at >= since if reached is None else entry.publication.sequence > reached:
                yield entry

    def __len__(self) -> int:
        return len(self._entries)
