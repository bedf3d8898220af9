"""Memory of evicted messages: the last offset that was evicted at or below each topic."""

from collections.abc import Sequence
from typing import Final

from dwsps_channels.core.entry import Entry
from dwsps_channels.protocol.topics import contexts

# A topic costs some 150 bytes, and a message has its ancestors, too.
MAX_TOPICS: Final = 16_384


class Evictions:
    """Knows whether something is missing below a topic since some offset.

    The memory is bounded. What was forgotten is remembered coarsely, by the first level of the topic: then more may seem
    to be missing than is, and never less.
    """

    def __init__(self, topics: int = MAX_TOPICS) -> None:
        self._topics = topics
        # Everything up to it may be missing.
        self._floor = 0
        # By first level: everything up to the offset may be missing below it.
        self._floors: dict[str, int] = {}
        # By context, what is missing at and below it.
        self._latest: dict[str, int] = {}
        # By topic, what was added and is not in ``_latest`` yet: contexts are looked for when somebody asks.
        self._added: dict[str, int] = {}

    def reset(self, floor: int) -> None:
        """Forget everything, but that all up to ``floor`` may be missing."""
        self._floor = floor
        self._floors, self._latest, self._added = {}, {}, {}

    def add(self, entries: Sequence[Entry]) -> None:
        """Remember that ``entries``, in the order of their offsets, are not kept."""
        added = self._added
        for topic, offset in {each.publication.topic: each.offset for each in entries}.items():
            # A publisher that has its share loses older messages than one that exceeds it.
            if offset > added.get(topic, 0):
                added[topic] = offset
        # Not all at once: a topic may have 32 contexts.
        if len(added) > self._topics // 16:
            self._fold()

    def latest(self, topic: str) -> int:
        """Return the last offset that may be missing at or below ``topic``; 0: nothing is."""
        if self._added:
            self._fold()
        latest = max(self._floor, self._latest.get(topic, 0))
        if self._floors:
            latest = max(latest, self._floors.get(_first_level(topic), 0))
        return latest

    def __len__(self) -> int:
        return len(self._latest) + len(self._added)

    def _fold(self) -> None:
        latest = self._latest
        for topic, offset in self._added.items():
            for context in contexts(topic):
                if offset > latest.get(context, 0):
                    latest[context] = offset
        self._added = {}
        if len(latest) > self._topics:
            self._forget()

    def _forget(self) -> None:
        """Remember by first level only all but the newest, which are half as many as there may be."""
        latest, floors = self._latest, self._floors
        limit = sorted(latest.values())[-(self._topics // 2) - 1]
        for topic, offset in latest.items():
            if offset <= limit:
                level = _first_level(topic)
                if offset > floors.get(level, 0):
                    floors[level] = offset
        self._latest = {topic: offset for topic, offset in latest.items() if offset > limit}
        if len(floors) > self._topics // 8:
            self._floor = max(self._floor, *floors.values())
            self._floors = {}


def _first_level(topic: str) -> str:
    return topic.partition(".")[0]
