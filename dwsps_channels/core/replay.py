"""The deliveries that are sent again to a client that resumes."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import accumulate, chain, takewhile
from operator import itemgetter
from typing import Final

from msgspec import Struct, field

from dwsps_channels.core.entry import Entry
from dwsps_channels.core.ring import ENTRY_BYTES
from dwsps_channels.core.tail import Tail
from dwsps_channels.protocol.frames import Frame, Frames
from dwsps_channels.protocol.topics import contexts
from dwsps_channels.protocol.topics import size as size_of

# The deliveries that are encoded in one go, and their bytes: it takes a few milliseconds, in which nobody else is served.
MAX_AT_ONCE: Final = 2000
MAX_BYTES_AT_ONCE: Final = 512 * 1024

# The memory of what was made for replays, before the last one; and what a frame and a topic cost, besides the JSON, of
# which transports make a second form.
CACHE_BYTES: Final = 4 * 1024 * 1024
_FRAME_BYTES: Final = 300
_TOPIC_BYTES: Final = 800

# The parts of replays that are kept of those from which sub-topics are left out.
MAX_PARTS_WITHOUT: Final = 32

_NOTHING: Final[frozenset[str]] = frozenset()

# What the JSON of a delivery has at least, besides its topic, message, timestamp and context.
_LEAST_BYTES: Final = len(
    b'{"type":"publish","timestamp":"","topic":"","message":,"context":"","offset":1}'
)


class ReplayLimits(Struct, frozen=True):
    """The most that is sent again for one frame of a client."""

    messages: int = 10_000
    """The number of deliveries."""
    bytes: int = 8 * 1024 * 1024
    """The bytes of their JSON."""


class Replay(Struct, frozen=True):
    """The deliveries that are sent again, in the order of the log; of one publication the deepest context first."""

    frames: Frames = field(default_factory=Frames)
    """Those that are encoded: all, or none if they are more than is encoded at once."""
    size: int = 0
    """The bytes of their JSON; nearly, if they are not encoded."""
    recovered: frozenset[str] = frozenset()
    """The topics of which nothing is missing."""
    unencoded: Sequence[tuple[str, Sequence[Entry]]] = ()
    """By topic those that are not encoded, in any order of the topics: see ``encode`` and ``Replayer.encode``."""

    def encode(self) -> Iterator[Frame]:
        """Yield all deliveries in their order, encoded for this replay alone. Any thread may do that."""
        yield from self.frames
        for topic, entry in _in_order(self.unencoded):
            yield entry.publication.frame(topic, entry.offset)


NO_REPLAY: Final = Replay()


class _Missed:
    """The entries at and below one topic that a client has missed; the sub-topics ``denied`` are left out."""

    __slots__ = ("_wanted", "denied", "entries", "topic")

    def __init__(self, topic: str, entries: Sequence[Entry], denied: frozenset[str]) -> None:
        self.topic = topic
        self.entries = entries
        self.denied = denied
        self._wanted = None if denied else entries

    def wanted(self) -> Sequence[Entry]:
        """Return the entries without those that are left out."""
        if self._wanted is None:
            denied = self.denied
            self._wanted = [
                entry
                for entry in self.entries
                if denied.isdisjoint(contexts(entry.publication.topic))
            ]
        return self._wanted


class _Part(Struct, frozen=True):
    """One topic's share of a replay."""

    topic: str
    after: int
    until: int
    """The offset up to which there is nothing else."""
    offsets: Sequence[int]
    frames: Frames
    size: int

    def since(self, after: int) -> "_Part":
        """Return what comes after this offset, which is not before its own."""
        start = bisect_right(self.offsets, after)
        if start == 0:
            return self
        frames = Frames(self.frames[start:])
        return _Part(self.topic, after, self.until, self.offsets[start:], frames, _size_of(frames))


class Replayer:
    """Makes replays of what ``tail`` has. What many clients get is made once."""

    def __init__(self, tail: Tail, limits: ReplayLimits) -> None:
        self._tail = tail
        self._limits = limits
        # By context and offset.
        self._frames: dict[str, dict[int, Frame]] = {}
        self._cached = 0
        # By topic, the last one: clients that were cut off together have missed the same. Then by what is left out as
        # well: most clients share that with others.
        self._parts: dict[str, _Part] = {}
        self._parts_without: dict[tuple[str, frozenset[str]], _Part] = {}

    def reset(self) -> None:
        """Forget what was made: offsets mean something else from now on."""
        self._frames, self._parts, self._parts_without, self._cached = {}, {}, {}, 0

    def recover(
        self, topics: Iterable[str], after: int, denied: Mapping[str, frozenset[str]] = {}
    ) -> Replay:
        """Return what was published at and below ``topics`` after the offset ``after``.

        ``denied`` has for some of the topics what is left out: the sub-topics, with all below them.
        A topic of which something is missing, or that is too much together with those before it, is not recovered.
        """
        found = [
            _Missed(topic, entries, denied.get(topic, _NOTHING))
            for topic, entries in self._tail.recover(dict.fromkeys(topics), after)
        ]
        known = {each.topic: self._known_part(each, after) for each in found if each.entries}
        if None in known.values():
            wanted = [(each.topic, each.wanted()) for each in found]
            if _is_large(wanted):
                return self._unencoded(wanted)
        parts: list[_Part] = []
        recovered = []
        messages, size = self._limits.messages, self._limits.bytes
        for each in found:
            if each.entries:
                part = known[each.topic]
                if (len(each.wanted()) if part is None else len(part.frames)) > messages:
                    continue
                part = part or self._make_part(each, after, size)
                if part is None or part.size > size:
                    continue
                parts.append(part)
                messages -= len(part.frames)
                size -= part.size
            recovered.append(each.topic)
        return Replay(_merged(parts), self._limits.bytes - size, frozenset(recovered))

    def last(self, topic: str, count: int, denied: frozenset[str] = frozenset()) -> Replay:
        """Return the last ``count`` that are kept at and below ``topic``, or as many of them as the limits allow.

        What is at and below ``denied`` is left out, and does not count.
        """
        size, frames = 0, Frames()
        entries = self._tail.last(topic, min(count, self._limits.messages), denied)
        if _is_large([(topic, entries)]):
            sizes = accumulate(_least_size(topic, (entry,)) for entry in reversed(entries))
            fitting = sum(1 for _ in takewhile(self._limits.bytes.__ge__, sizes))
            return self._unencoded([(topic, entries[len(entries) - fitting :])])
        for entry in reversed(entries):
            [frame] = self._encode(topic, (entry,))
            if size + len(frame.data) > self._limits.bytes:
                break
            size += len(frame.data)
            frames.append(frame)
        frames.reverse()
        return Replay(frames, size)

    def encode(self, replay: Replay) -> Iterator[Frame]:
        """Yield all deliveries of ``replay`` in their order, each encoded when it is its turn.

        Go on with it in the same epoch only.
        """
        made = (self._encode(topic, (entry,))[0] for topic, entry in _in_order(replay.unencoded))
        return chain(replay.frames, made)

    def _unencoded(self, found: Iterable[tuple[str, Sequence[Entry]]]) -> Replay:
        """Return a replay of ``found``, topics and what each has, as far as the limits allow."""
        messages, size = self._limits.messages, self._limits.bytes
        parts = []
        recovered = []
        for topic, entries in found:
            if entries:
                # Sizes are added up only for what may fit.
                if len(entries) > messages or (needed := _least_size(topic, entries)) > size:
                    continue
                messages -= len(entries)
                size -= needed
                parts.append((topic, entries))
            recovered.append(topic)
        return Replay(Frames(), self._limits.bytes - size, frozenset(recovered), parts)

    def _known_part(self, missed: _Missed, after: int) -> _Part | None:
        """Return the part of a topic, if it was made before, perhaps for a client that has missed more."""
        if missed.denied:
            part = self._parts_without.get((missed.topic, missed.denied))
        else:
            part = self._parts.get(missed.topic)
        # Nothing was evicted after ``after``, so the same ends mean the same entries.
        if part is None or part.after > after or part.until != missed.entries[-1].offset:
            return None
        return part.since(after)

    def _make_part(self, missed: _Missed, after: int, size: int) -> _Part | None:
        """Return the part of a topic; ``None``: it has more than ``size`` bytes."""
        topic, entries = missed.topic, missed.wanted()
        # What does not fit is not encoded first: a client may ask again and again, for each context.
        if _least_size(topic, entries) > size:
            return None
        frames = self._encode(topic, entries)
        offsets = [entry.offset for entry in entries]
        until = missed.entries[-1].offset
        part = _Part(topic, after, until, offsets, frames, _size_of(frames))
        if not missed.denied:
            self._parts[topic] = part
        else:
            if len(self._parts_without) >= MAX_PARTS_WITHOUT:
                del self._parts_without[next(iter(self._parts_without))]
            self._parts_without[topic, missed.denied] = part
        return part

    def _encode(self, context: str, entries: Sequence[Entry]) -> Frames:
        if self._cached > CACHE_BYTES:
            self.reset()
        cache = self._frames.get(context)
        if cache is None:
            cache = self._frames[context] = {}
            self._cached += _TOPIC_BYTES
        frames = Frames()
        for entry in entries:
            offset = entry.offset
            frame = cache.get(offset)
            if frame is None:
                frame = cache[offset] = entry.publication.frame(context, offset)
                self._cached += _FRAME_BYTES + 2 * len(frame.data)
            frames.append(frame)
        return frames


def _size_of(frames: Iterable[Frame]) -> int:
    return sum([len(frame.data) for frame in frames])


def _least_size(context: str, entries: Sequence[Entry]) -> int:
    """Return the bytes of the frames of ``entries``, nearly; never more than they have."""
    size = (_LEAST_BYTES + size_of(context)) * len(entries)
    for entry in entries:
        publication = entry.publication
        size += size_of(publication.topic) + len(publication.message) + len(publication.timestamp)
    return size


def _is_large(found: Sequence[tuple[str, Sequence[Entry]]]) -> bool:
    """Tell whether ``found``, topics and what each has, is more than is encoded at once."""
    count = sum([len(entries) for _, entries in found])
    if count > MAX_AT_ONCE:
        return True
    size = sum([entry.size for _, entries in found for entry in entries])
    return size - ENTRY_BYTES * count > MAX_BYTES_AT_ONCE


def _in_order(parts: Sequence[tuple[str, Sequence[Entry]]]) -> Iterator[tuple[str, Entry]]:
    """Yield the topic and the entry of each delivery, in their order."""

    def of(topic: str, entries: Sequence[Entry]) -> Iterator[tuple[str, Entry]]:
        for entry in entries:
            yield topic, entry

    # Of two contexts of one publication the longer is the deeper; merging by offset keeps that order.
    ordered = sorted(parts, key=lambda part: len(part[0]), reverse=True)
    return merge(*(of(*part) for part in ordered), key=lambda each: each[1].offset)


def _merged(parts: Sequence[_Part]) -> Frames:
    if not parts:
        return Frames()
    if len(parts) == 1:
        return parts[0].frames
    placed: list[tuple[int, Frame]] = []
    # Of two contexts of one publication the longer is the deeper; sorting by offset keeps that order.
    for part in sorted(parts, key=lambda part: len(part.topic), reverse=True):
        placed += zip(part.offsets, part.frames, strict=True)
    placed.sort(key=itemgetter(0))
    return Frames([frame for _, frame in placed])
