"""The entries of the tail by context."""

from collections.abc import Iterable, Sequence
from typing import Final

from dwsps_channels.core.entry import Entry
from dwsps_channels.protocol.topics import contexts

# Evicted entries are taken out once they are so many, and an eighth of all.
MIN_EVICTED: Final = 64


class ContextIndex:
    """Finds the entries at and below a topic, in the order of their offsets."""

    def __init__(self) -> None:
        self._entries: dict[str, list[Entry]] = {}
        self._count = 0
        # What is to be taken out.
        self._evicted: list[Entry] = []
        self._is_used = True
        self.end = 0
        """The offset of the last entry that was added."""

    def add(self, entries: Iterable[Entry]) -> None:
        """Add ``entries``, the next ones."""
        found = self._entries
        for entry in entries:
            for context in contexts(entry.publication.topic):
                if (below := found.get(context)) is not None:
                    below.append(entry)
                else:
                    found[context] = [entry]
            self._count += 1
            self.end = entry.offset

    def below(self, topic: str) -> Sequence[Entry]:
        """Return the entries at and below ``topic``, some evicted ones among them. Do not change it."""
        self._is_used = True
        return self._entries.get(topic, ())

    def evict(self, entries: Iterable[Entry]) -> bool:
        """Take out ``entries``, soon. ``False``: drop the index, nobody has used it for long."""
        evicted = self._evicted
        for entry in entries:
            entry.kept = False
            if entry.offset <= self.end:
                evicted.append(entry)
        if len(evicted) < max(MIN_EVICTED, self._count // 8):
            return True
        if not self._is_used:
            return False
        self._is_used = False
        found = self._entries
        for context in {each for entry in evicted for each in contexts(entry.publication.topic)}:
            left = [entry for entry in found[context] if entry.kept]
            if left:
                found[context] = left
            else:
                del found[context]
        self._count -= len(evicted)
        self._evicted = []
        return True
