"""The outgoing half of a connection that is written on itself: what a turn of the event loop brings leaves at once."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from dwsps_channels.connections.transports.flusher import SLICE_BYTES, Flusher
from dwsps_channels.connections.transports.lag import PART, Lag, room
from dwsps_channels.protocol.frames import Frame

if TYPE_CHECKING:
    import asyncio

# How long a client that is being closed has to read what is still on its way, and to answer.
CLOSE_TIMEOUT: Final = 5.0
SLOW_CLOSE_TIMEOUT: Final = 1.0

# A connection whose own requests queue this many frames in one iteration of the event loop is flushed immediately.
MAX_FRAMES_PER_BATCH: Final = 32


class Closing(Protocol):
    """What an outbox needs of its connection."""

    def take_leave(self, code: int, *, patience: float) -> None:
        """All that is to be sent is in the outbox: have it closed with ``code``, and cut off after ``patience`` seconds."""

    def unsent(self) -> int:
        """How many bytes the event loop and the kernel hold for the client."""


class Stream(Protocol):
    """What an outbox writes on: the event loop's own transport, of asyncio or of Twisted."""

    def write(self, data: bytes) -> None: ...


class Outbox:
    """Implements ``core.transport.Transport`` on a connection's own stream, in websocket frames.

    When more than ``limit`` bytes wait for a client that does not read (see ``Lag``), or several times as many for one that
    had no time to, what comes next is dropped and ``on_overflow`` is called, once, from the event loop: it is expected to close the outbox. When a part of that waits,
    ``on_lag`` is called with ``True``; with ``False`` once publishers need not wait for the client any more.
    """

    __slots__ = (
        "_closing",
        "_held",
        "_held_bytes",
        "_lag",
        "_limit",
        "_on_lag",
        "_on_overflow",
        "blocked",
        "broadcaster",
        "gathered",
        "is_open",
        "stream",
    )

    def __init__(self, stream: Stream, flusher: Flusher, closing: Closing) -> None:
        self.stream = stream
        self.broadcaster = flusher
        self._closing: Closing | None = closing
        self.gathered: list[bytes] = []
        """The websocket frames of this turn."""
        self.is_open = True
        """False once the last frame was put in."""
        self.blocked = False
        """Set while the client is behind: what is written meanwhile is held here, until ``unblock``."""
        self._held: deque[bytes] | None = None
        self._held_bytes = 0
        self._limit: int | None = None
        self._on_overflow: Callable[[], None] | None = None
        self._on_lag: Callable[[bool], None] | None = None
        # Made when the client falls behind, and dropped when it has caught up.
        self._lag: Lag | None = None

    def bound(
        self, limit: int, on_overflow: Callable[[], None], on_lag: Callable[[bool], None]
    ) -> None:
        """Bound what may wait here; until then all may."""
        if self.is_open:
            self._limit = limit
            self._on_overflow = on_overflow
            self._on_lag = on_lag

    @property
    def is_empty(self) -> bool:
        """Whether all is with the event loop."""
        if self.is_open and self in self.broadcaster.batch.group:
            return False
        return not self.gathered and not self._held

    @property
    def buffered(self) -> int:
        """How many bytes wait here for the client; the event loop and the network hold some more."""
        return self._held_bytes

    def queued(self) -> int:
        """How many bytes are on their way to the client, here and below."""
        return self._held_bytes + (self._closing.unsent() if self._closing is not None else 0)

    # core.transport.Transport

    def caught_up(self) -> "asyncio.Future[None] | None":
        return None if self._lag is None else self._lag.relief()

    def send(self, frame: Frame) -> None:
        # As ``put``, without the call: this is done for each ack.
        if self.is_open:
            broadcaster = self.broadcaster
            if self in broadcaster.batch.group:
                self.gather(broadcaster.batch.take_unsent(self))
            gathered = self.gathered
            if not gathered:
                broadcaster.add(self)
            gathered.append(frame.wire or frame.make_wire())

    def close(self, code: int, farewell: Frame, *, discard: bool = False) -> None:
        closing = self._closing
        if not self.is_open or closing is None:
            return
        if discard:
            if self in self.broadcaster.batch.group:
                self.broadcaster.batch.take_unsent(self)
            self.gathered.clear()
            self._held = None
            self._held_bytes = 0
        # What comes from now on is the last, however much waits.
        self._limit = None
        self.send(farewell)
        closing.take_leave(int(code), patience=SLOW_CLOSE_TIMEOUT if discard else CLOSE_TIMEOUT)

    # For the connection

    def put(self, frame: bytes) -> None:
        """Take a websocket frame for sending."""
        if self.is_open:
            if self in self.broadcaster.batch.group:
                self.gather(self.broadcaster.batch.take_unsent(self))
            self.gather([frame])

    def gather(self, frames: list[bytes]) -> None:
        """Add ``frames`` to those of this turn."""
        if frames:
            if not self.gathered:
                self.broadcaster.add(self)
            self.gathered += frames

    def finish(self) -> None:
        """Take no more: the last frame is in."""
        self.is_open = False
        self._end_lag()
        self._closing = None
        self._on_overflow = None
        self._on_lag = None

    def drop(self) -> None:
        """Forget the client: it is gone."""
        self.finish()
        self.gathered.clear()
        self._held = None
        self._held_bytes = 0

    def flush(self) -> None:
        """Write now what was gathered; not within a delivery."""
        gathered = self.gathered
        if gathered:
            self.gathered = []
            self.write(gathered, b"".join(gathered))

    def write(self, frames: list[bytes], data: bytes) -> None:
        """Write ``frames``, which ``data`` is made of, or hold them for a client that is behind."""
        size, limit = len(data), self._limit
        if size <= SLICE_BYTES and not self.blocked:
            self._write(data)
        elif limit is None or self._held_bytes + size <= room(limit, self._lag):
            if self._held is None:
                self._held = deque()
            self._held.extend(frames)
            self._held_bytes += size
            self._write_held()
            if limit is not None and self._held_bytes > limit // PART and self._lag is None:
                self._begin_lag()
        else:
            self._overflow()

    def _overflow(self) -> None:
        if self._on_overflow is not None:
            on_overflow, self._on_overflow = self._on_overflow, None
            on_overflow()

    def unblock(self) -> None:
        """The client has read: write on."""
        self.blocked = False
        self._write_held()
        limit = self._limit
        if self._lag is not None and (limit is None or self._held_bytes <= limit // PART // 2):
            self._end_lag()

    def _begin_lag(self) -> None:
        if self._on_lag is not None:
            self._lag = Lag(self.queued, self._tell_lag)

    def _tell_lag(self, is_behind: bool) -> None:
        if self._on_lag is not None:
            self._on_lag(is_behind)
        # It was given time, and did not read.
        if self._lag is not None and self._limit is not None and self._held_bytes > self._limit:
            self._overflow()

    def _end_lag(self) -> None:
        if self._lag is not None:
            lag, self._lag = self._lag, None
            lag.end()

    def _write_held(self) -> None:
        held = self._held
        while held and not self.blocked:
            frames, size = [], 0
            while held and size < SLICE_BYTES:
                frame = held.popleft()
                frames.append(frame)
                size += len(frame)
            self._held_bytes -= size
            self._write(b"".join(frames))
        if not held:
            self._held = None

    def _write(self, data: bytes) -> None:
        try:
            self.stream.write(data)
        except RuntimeError:
            # uvloop: the connection broke within this turn, and is reported lost in the next.
            self.drop()
