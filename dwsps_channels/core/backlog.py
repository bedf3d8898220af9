"""The last messages that were published on this server, kept for a worker that is away."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from time import time
from typing import NamedTuple

from dwsps_channels.core.publication import Publication

Position = Mapping[str, int]
"""How far somebody has got: for each origin the id of the last publication that it has."""

# What an entry costs besides its topic and message.
_ENTRY_BYTES = 400


class Entry(NamedTuple):
    """A publication, and when it entered, in seconds since the epoch."""

    at: float
    publication: Publication

    @property
    def size(self) -> int:
        """What it costs to keep, in bytes, nearly."""
        return _ENTRY_BYTES + len(self.publication.topic) + len(bytes(self.publication.message))


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
        self._entries: deque[tuple[Entry, int]] = deque()
        self._kept = 0

    def append(self, publication: Publication) -> Entry:
        """Keep a publication that enters now."""
        entry = Entry(self._clock(), publication)
        size = entry.size
        entries = self._entries
        entries.append((entry, size))
        self._kept += size
        while entries and (
            len(entries) > self._messages
            or self._kept > self._size
            or entries[0][0].at < entry.at - self._seconds
        ):
            self._kept -= entries.popleft()[1]
        return entry

    def after(self, position: Position, since: float) -> Iterator[Entry]:
        """What is kept beyond ``position``, in order; of an origin that is not in it, what entered at or after ``since``."""
        for entry, _ in self._entries:
            reached = position.get(entry.publication.origin)
            if entry.at >= since if reached is None else entry.publication.number > reached:
                yield entry

    def __len__(self) -> int:
        return len(self._entries)
