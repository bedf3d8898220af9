"""The deliveries that are sent again to a client that resumes."""

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Final

from msgspec import Struct

from dwsps_channels.core.entry import Entry
from dwsps_channels.core.ring import ENTRY_BYTES
from dwsps_channels.core.tail import Tail
from dwsps_channels.protocol.frames import Frame

# The frames that are remembered, in bytes of JSON; each has one or two forms more.
CACHE_BYTES: Final = 2 * 1024 * 1024


class ReplayLimits(Struct, frozen=True):
    """The most that is sent again for one frame of a client."""

    messages: int = 5000
    """The number of deliveries."""
    bytes: int = 512 * 1024
    """The bytes of their JSON."""


class Replay(Struct, frozen=True):
    """The deliveries that are sent again, in the order of the log; of one publication the deepest context first."""

    frames: Sequence[Frame] = ()
    size: int = 0
    """The bytes of their JSON."""
    recovered: frozenset[str] = frozenset()
    """The topics of which nothing is missing."""


NO_REPLAY: Final = Replay()


class Replayer:
    """Makes replays of what ``tail`` has. A frame that many clients get is encoded once."""

    def __init__(self, tail: Tail, limits: ReplayLimits) -> None:
        self._tail = tail
        self._limits = limits
        # By context and offset.
        self._frames: dict[str, dict[int, Frame]] = {}
        self._cached = 0

    def reset(self) -> None:
        """Forget the frames: offsets mean something else from now on."""
        self._frames, self._cached = {}, 0

    def recover(self, topics: Iterable[str], after: int) -> Replay:
        """Return what was published at and below ``topics`` after the offset ``after``.

        A topic of which something is missing, or that is too much together with those before it, is not recovered.
        """
        parts: list[tuple[str, Sequence[Entry], Sequence[Frame]]] = []
        recovered = []
        messages, left = self._limits.messages, self._limits.bytes
        for topic in dict.fromkeys(topics):
            entries = self._tail.recover(topic, after)
            if entries is None:
                continue
            if entries:
                frames = self._encoded(topic, entries, messages, left)
                if frames is None:
                    continue
                parts.append((topic, entries, frames))
                messages -= len(frames)
                left -= _size(frames)
            recovered.append(topic)
        return Replay(_merged(parts), self._limits.bytes - left, frozenset(recovered))

    def last(self, topic: str, count: int) -> Replay:
        """Return the last ``count`` that are kept at and below ``topic``, or as many of them as the limits allow."""
        left = self._limits.bytes
        frames: list[Frame] = []
        for entry in reversed(self._tail.last(topic, min(count, self._limits.messages))):
            [frame] = self._encode(topic, (entry,))
            left -= len(frame.data)
            if left < 0:
                break
            frames.append(frame)
        frames.reverse()
        return Replay(frames, _size(frames))

    def _encoded(
        self, context: str, entries: Sequence[Entry], messages: int, size: int
    ) -> Sequence[Frame] | None:
        """Return the frames of ``entries``; ``None``: they are more than ``messages``, or than ``size`` bytes."""
        if len(entries) > messages:
            return None
        # What is far too large is not encoded first: a frame is larger than its message and topic.
        if sum([entry.size for entry in entries]) - ENTRY_BYTES * len(entries) > size:
            return None
        frames = self._encode(context, entries)
        return None if _size(frames) > size else frames

    def _encode(self, context: str, entries: Sequence[Entry]) -> Sequence[Frame]:
        cache = self._frames.get(context)
        if cache is not None:
            try:
                return [cache[entry.offset] for entry in entries]
            except KeyError:
                pass
        else:
            cache = self._frames[context] = {}
        frames = []
        for entry in entries:
            offset = entry.offset
            frame = cache.get(offset)
            if frame is None:
                frame = cache[offset] = entry.publication.frame(context, offset)
                self._cached += len(frame.data)
            frames.append(frame)
        if self._cached > CACHE_BYTES:
            self.reset()
        return frames


def _size(frames: Iterable[Frame]) -> int:
    return sum([len(frame.data) for frame in frames])


def _merged(parts: Sequence[tuple[str, Sequence[Entry], Sequence[Frame]]]) -> Sequence[Frame]:
    if not parts:
        return ()
    if len(parts) == 1:
        return parts[0][2]
    placed: list[tuple[int, Frame]] = []
    # Of two contexts of one publication the longer is the deeper; sorting keeps that order.
    for _, entries, frames in sorted(parts, key=lambda part: len(part[0]), reverse=True):
        placed += zip([entry.offset for entry in entries], frames, strict=True)
    placed.sort(key=itemgetter(0))
    return [frame for _, frame in placed]
