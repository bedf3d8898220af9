"""The outgoing half of a connection that is written on itself: what a turn of the event loop brings leaves at once."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from dwsps_channels.connections.transports.backpressure import PART, Backpressure, room
from dwsps_channels.connections.transports.batch_writer import SLICE_BYTES, BatchWriter
from dwsps_channels.protocol.frames import Frame

if TYPE_CHECKING:
    import asyncio

# How long a client that is being closed has to read what is still on its way, and to answer.
CLOSE_TIMEOUT: Final = 5.0
SLOW_CLOSE_TIMEOUT: Final = 1.0

# A connection whose own requests queue this many frames in one iteration of the event loop is flushed immediately.
MAX_FRAMES_PER_BATCH: Final = 32


class Closing(Protocol):
    """What a send buffer needs of its connection."""

    def begin_close(self, code: int, *, timeout: float) -> None:
        """All that is to be sent is in the send buffer: have it closed with ``code``, and cut off after ``timeout`` seconds."""

    def bytes_in_flight(self) -> int:
        """How many bytes the event loop and the kernel hold for the client."""


class Stream(Protocol):
    """What a send buffer writes on: the event loop's own transport, of asyncio or of Twisted."""

    def write(self, data: bytes) -> None: ...


class SendBuffer:
    """Implements ``core.transport.Transport`` on a connection's own stream, in websocket frames.

    When more than ``limit`` bytes wait for a client that does not read (see ``Backpressure``), or several times as many for one that
    had no time to, what comes next is dropped and ``on_slow_consumer`` is called, once, from the event loop: it is expected to close the send buffer. When a part of that waits,
    ``on_backpressure`` is called with ``True``; with ``False`` once publishers need not wait for the client any more.
    """

    __slots__ = (
        "_backpressure",
        "_closing",
        "_limit",
        "_on_backpressure",
        "_on_slow_consumer",
        "_queued",
        "_queued_bytes",
        "blocked",
        "broadcaster",
        "is_open",
        "pending",
        "stream",
    )

    def __init__(self, stream: Stream, batch_writer: BatchWriter, closing: Closing) -> None:
        self.stream = stream
        self.broadcaster = batch_writer
        self._closing: Closing | None = closing
        self.pending: list[bytes] = []
        """The websocket frames of this turn."""
        self.is_open = True
        """False once the last frame was put in."""
        self.blocked = False
        """Set while the client is behind: what is written meanwhile is queued here, until ``unblock``."""
        self._queued: deque[bytes] | None = None
        self._queued_bytes = 0
        self._limit: int | None = None
        self._on_slow_consumer: Callable[[], None] | None = None
        self._on_backpressure: Callable[[bool], None] | None = None
        # Made when the client falls behind, and dropped when it has caught up.
        self._backpressure: Backpressure | None = None

    def set_limit(
        self,
        limit: int,
        on_slow_consumer: Callable[[], None],
        on_backpressure: Callable[[bool], None],
    ) -> None:
        """Bound what may wait here; until then all may."""
        if self.is_open:
            self._limit = limit
            self._on_slow_consumer = on_slow_consumer
            self._on_backpressure = on_backpressure

    @property
    def is_empty(self) -> bool:
        """Whether all is with the event loop."""
        if self.is_open and self in self.broadcaster.batch.group:
            return False
        return not self.pending and not self._queued

    @property
    def buffered_bytes(self) -> int:
        """How many bytes wait here for the client; the event loop and the network hold some more."""
        return self._queued_bytes

    def outstanding_bytes(self) -> int:
        """How many bytes are on their way to the client, here and below."""
        return self._queued_bytes + (
            self._closing.bytes_in_flight() if self._closing is not None else 0
        )

    # core.transport.Transport

    def caught_up(self) -> "asyncio.Future[None] | None":
        return None if self._backpressure is None else self._backpressure.caught_up()

    def send(self, frame: Frame) -> None:
        # As ``write_frame``, without the call: this is done for each ack.
        if self.is_open:
            broadcaster = self.broadcaster
            if self in broadcaster.batch.group:
                self.append_frames(broadcaster.batch.take_unsent(self))
            pending = self.pending
            if not pending:
                broadcaster.add(self)
            pending.append(frame.wire or frame.make_wire())

    def close(self, code: int, final_frame: Frame, *, discard: bool = False) -> None:
        closing = self._closing
        if not self.is_open or closing is None:
            return
        if discard:
            if self in self.broadcaster.batch.group:
                self.broadcaster.batch.take_unsent(self)
            self.pending.clear()
            self._queued = None
            self._queued_bytes = 0
        # What comes from now on is the last, however much waits.
        self._limit = None
        self.send(final_frame)
        closing.begin_close(int(code), timeout=SLOW_CLOSE_TIMEOUT if discard else CLOSE_TIMEOUT)

    # For the connection

    def write_frame(self, frame: bytes) -> None:
        """Take a websocket frame for sending."""
        if self.is_open:
            if self in self.broadcaster.batch.group:
                self.append_frames(self.broadcaster.batch.take_unsent(self))
            self.append_frames([frame])

    def append_frames(self, frames: list[bytes]) -> None:
        """Add ``frames`` to those of this turn."""
        if frames:
            if not self.pending:
                self.broadcaster.add(self)
            self.pending += frames

    def finish(self) -> None:
        """Take no more: the last frame is in."""
        self.is_open = False
        self._end_backpressure()
        self._closing = None
        self._on_slow_consumer = None
        self._on_backpressure = None

    def drop(self) -> None:
        """Forget the client: it is gone."""
        self.finish()
        self.pending.clear()
        self._queued = None
        self._queued_bytes = 0

    def flush(self) -> None:
        """Write now what was pending; not within a delivery."""
        pending = self.pending
        if pending:
            self.pending = []
            self.write(pending, b"".join(pending))

    def write(self, frames: list[bytes], data: bytes) -> None:
        """Write ``frames``, which ``data`` is made of, or queue them for a client that is behind."""
        size, limit = len(data), self._limit
        if size <= SLICE_BYTES and not self.blocked:
            self._write(data)
        elif limit is None or self._queued_bytes + size <= room(limit, self._backpressure):
            if self._queued is None:
                self._queued = deque()
            self._queued.extend(frames)
            self._queued_bytes += size
            self._write_queued()
            if (
                limit is not None
                and self._queued_bytes > limit // PART
                and self._backpressure is None
            ):
                self._begin_backpressure()
        else:
            self._report_slow_consumer()

    def _report_slow_consumer(self) -> None:
        if self._on_slow_consumer is not None:
            on_slow_consumer, self._on_slow_consumer = self._on_slow_consumer, None
            on_slow_consumer()

    def unblock(self) -> None:
        """The client has read: write on."""
        self.blocked = False
        self._write_queued()
        limit = self._limit
        if self._backpressure is not None and (
            limit is None or self._queued_bytes <= limit // PART // 2
        ):
            self._end_backpressure()

    def _begin_backpressure(self) -> None:
        if self._on_backpressure is not None:
            self._backpressure = Backpressure(self.outstanding_bytes, self._tell_backpressure)

    def _tell_backpressure(self, is_behind: bool) -> None:
        if self._on_backpressure is not None:
            self._on_backpressure(is_behind)
        # It was given time, and did not read.
        if (
            self._backpressure is not None
            and self._limit is not None
            and self._queued_bytes > self._limit
        ):
            self._report_slow_consumer()

    def _end_backpressure(self) -> None:
        if self._backpressure is not None:
            backpressure, self._backpressure = self._backpressure, None
            backpressure.end()

    def _write_queued(self) -> None:
        queued = self._queued
        while queued and not self.blocked:
            frames, size = [], 0
            while queued and size < SLICE_BYTES:
                frame = queued.popleft()
                frames.append(frame)
                size += len(frame)
            self._queued_bytes -= size
            self._write(b"".join(frames))
        if not queued:
            self._queued = None

    def _write(self, data: bytes) -> None:
        try:
            self.stream.write(data)
        except RuntimeError:
            # uvloop: the connection broke within this turn, and is reported lost in the next.
            self.drop()
