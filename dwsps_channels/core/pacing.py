"""A replay that is sent in bursts, as fast as the client reads."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from dwsps_channels.core.replay import MAX_AT_ONCE, MAX_BYTES_AT_ONCE
from dwsps_channels.core.transport import Transport
from dwsps_channels.protocol.frames import Frame, Frames

# How often a session waits in a row, for its client to read or for its process to read the log. And for how many
# seconds at first: each pause is twice as long as the one before, five seconds together.
MAX_PAUSES: Final = 9
FIRST_PAUSE: Final = 0.01

# The seconds that a session waits in all for a replay to be read.
REPLAY_TIMEOUT: Final = 300.0

# A client that has read so much, or a quarter of its limit if that is less, gets all of these pauses once more.
MIN_PROGRESS_BYTES: Final = 64 * 1024

Pause = Callable[[float], Awaitable[object]]
"""Lets so many seconds pass, as ``asyncio.sleep`` does."""


async def no_pause(seconds: float) -> None:
    """Let no time pass: the ``Pause`` of those whose log is never behind."""


def has_room(queued: int, limit: int, size: int) -> bool:
    """Tell whether ``size`` bytes of a replay fit behind ``queued`` ones, of the ``limit`` for both.

    A replay takes half of the buffer: the other half is for what is published meanwhile.
    """
    return not size or queued + size <= limit // 2


class Backlog:
    """The frames of a replay that are still to be sent, each made when its turn is near."""

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._frames = frames
        self.first = next(frames, None)
        """The next one; ``None``: there are no more."""

    def take(self, room: int) -> Frame | None:
        """Return the next frame, if it has at most ``room`` bytes."""
        frame = self.first
        if frame is None or len(frame.data) > room:
            return None
        self.first = next(self._frames, None)
        return frame


class Window:
    """The room for replays in the buffer of one client, which takes ``limit`` bytes."""

    def __init__(self, transport: Transport, limit: int, pause: Pause) -> None:
        self._transport = transport
        self._limit = limit
        self._pause = pause
        self._least_progress = min(MIN_PROGRESS_BYTES, limit // 4)
        # The bytes that were sent; and those since the last pause, which the transport need not count yet.
        self._sent = 0
        self._uncounted = 0
        # The pauses since the client made progress, and what it had read then, less what was queued at first.
        self._pauses = 0
        self._read = -transport.buffered_bytes
        self._seconds = 0.0

    @property
    def is_used(self) -> bool:
        """Return whether anything was sent."""
        return self._sent > 0

    def has_room(self, size: int) -> bool:
        """Tell whether ``size`` bytes fit now."""
        return has_room(self._queued(), self._limit, size)

    def send(self, backlog: Backlog) -> bool:
        """Send what fits of ``backlog``, and is not too much at once; return whether that is all of it."""
        queued = self._queued()
        room = min(self._limit // 2 - queued, MAX_BYTES_AT_ONCE)
        if not queued and backlog.first is not None:
            # A frame that is too large ever to fit goes alone.
            room = max(room, len(backlog.first.data))
        burst = Frames()
        while len(burst) < MAX_AT_ONCE and (frame := backlog.take(room)) is not None:
            burst.append(frame)
            room -= len(frame.data)
            self._sent += len(frame.data)
            self._uncounted += len(frame.data)
        if burst:
            self._transport.send_all(burst)
        return backlog.first is None

    async def wait(self) -> bool:
        """Let the client read, and others run; ``False``: it has not read for too long."""
        seconds = FIRST_PAUSE * 2**self._pauses
        self._seconds += seconds
        if self._pauses == MAX_PAUSES or self._seconds > REPLAY_TIMEOUT:
            return False
        await self._pause(seconds)
        self._pauses += 1
        self._uncounted = 0
        queued = self._queued()
        read = self._sent - queued
        if not queued or read >= self._read + self._least_progress:
            self._read, self._pauses = read, 0
        return True

    def _queued(self) -> int:
        return self._transport.buffered_bytes + self._uncounted
