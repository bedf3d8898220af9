"""The last messages that were published on this server, kept for a worker that is away."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from time import time

from msgspec import Struct

from dwsps_channels.core.publication import Publication

Position = Mapping[str, int]
"""How far somebody has got: for each origin the id of the last publication that it has."""

# What an entry costs besides its topic and message.
_ENTRY_BYTES = 400


class Entry(Struct, frozen=True, gc=False):
    """A publication that was kept."""

    at: float
    """When it entered, in seconds since the epoch."""
    publication: Publication
    size: int
    """What it costs to keep, in bytes, nearly."""


class Backlog:
    """Keeps at most ``messages``, ``size`` bytes and ``seconds``: the oldest go first."""

    def __init__(
        self,
        messages: int = 10_000,
        size: int = 16 * 1024 * 1024,
        seconds: float = 300.0,
        clock: Callable[[], float] = time,
    ) -> None:
        self._messages = messages
        self._size = size
        self._seconds = seconds
        self._clock = clock
        self._entries: deque[Entry] = deque()
        self._kept = 0

    def append(self, publication: Publication) -> Entry:
        """Keep a publication that enters now."""
        at = self._clock()
        size = _ENTRY_BYTES + len(publication.topic) + len(bytes(publication.message))
        entry = Entry(at, publication, size)
        entries = self._entries
        entries.append(entry)
        kept = self._kept + size
        while entries and (
            kept > self._size or len(entries) > self._messages or entries[0].at < at - self._seconds
        ):
            kept -= entries.popleft().size
        self._kept = kept
        return entry

    def after(self, position: Position, since: float) -> Iterator[Entry]:
        """What is kept beyond ``position``, in order; of an origin that is not in it, what entered at or after ``since``."""
        for entry in self._entries:
            reached = position.get(entry.publication.origin)
            if entry.at >= since if reached is None else entry.publication.number > reached:
                yield entry

    def __len__(self) -> int:
        return len(self._entries)
