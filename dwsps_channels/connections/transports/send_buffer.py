"""The outgoing half of a connection whose bytes we write ourselves: one write per turn of the event loop."""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from dwsps_channels.connections.transports.backpressure import (
    Backpressure,
    high_water,
    low_water,
    max_queued,
)
from dwsps_channels.connections.transports.closing import close_timeout
from dwsps_channels.connections.transports.counters import counters
from dwsps_channels.core.transport import Broadcaster
from dwsps_channels.protocol.frames import MAX_PIECE_BYTES, Frame, Frames

if TYPE_CHECKING:
    import asyncio

# A connection whose own requests queue this many frames in one iteration of the event loop is flushed immediately.
MAX_FRAMES_PER_BATCH: Final = 32

# The most that the event loop is handed at once: what it has taken cannot be discarded any more.
SLICE_BYTES: Final = MAX_PIECE_BYTES


class Stream(Protocol):
    """The event loop's own transport, of asyncio or of Twisted."""

    def write(self, data: bytes) -> None: ...


class Closable(Protocol):
    """The connection of a send buffer, as far as the buffer needs it."""

    def begin_close(self, code: int, *, timeout: float) -> None:
        """Close with ``code`` once the buffer is written, and cut the client off after ``timeout`` seconds."""

    def bytes_in_flight(self) -> int:
        """Count the bytes that the event loop and the kernel hold for the client."""


class TurnWriter(Broadcaster, Protocol):
    """The batch writer of a send buffer, as far as the buffer needs it."""

    @property
    def group(self) -> Collection["SendBuffer"]:
        """The receivers of the open batch."""

    def join(self, buffer: "SendBuffer") -> Sequence[bytes]:
        """Have the pending frames of ``buffer`` written at the end of this turn; return its share of the open batch.

        Call it before the first pending frame of a turn, and before each while the buffer is in ``group``.
        """


class SendBuffer:
    """Implements ``core.transport.Transport`` on a connection's own stream, in websocket frames.

    Frames of this turn are *pending*. Frames that a slow client leaves are *queued*, up to a limit (see
    ``set_limit``).
    """

    __slots__ = (
        "_backpressure",
        "_connection",
        "_limit",
        "_on_backpressure",
        "_on_slow_consumer",
        "_queued",
        "_queued_bytes",
        "_replayed",
        "_stream",
        "blocked",
        "broadcaster",
        "is_open",
        "joined",
        "pending",
    )

    def __init__(self, stream: Stream, batch_writer: TurnWriter, connection: Closable) -> None:
        self._stream = stream
        self.broadcaster = batch_writer
        self._connection: Closable | None = connection
        self.pending: list[bytes] = []
        """The websocket frames of this turn; those of a replay are joined to pieces."""
        self.joined = 0
        """The number of frames in ``pending`` beyond its length: a piece has many."""
        self.is_open = True
        """False once the last frame is in."""
        self.blocked = False
        """True between ``block`` and ``unblock``: the client is behind, and its frames are queued."""
        self._queued: deque[bytes] | None = None
        self._queued_bytes = 0
        # The bytes of replays, until the queue is empty: publishers do not wait for these.
        self._replayed = 0
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
        """Bound the bytes that may be queued; until then there is no bound.

        Args:
            limit: for a client that does not read. One that had no time to read yet may have ``BURST_FACTOR`` times as
                much. Frames beyond that are dropped.
            on_slow_consumer: called once when the limit is exceeded, from the event loop, never within ``send``. It
                is expected to close the buffer.
            on_backpressure: called with ``True`` when publishers are to wait for the client, with ``False`` when they
                need not wait any more.
        """
        if self.is_open:
            self._limit = limit
            self._on_slow_consumer = on_slow_consumer
            self._on_backpressure = on_backpressure

    @property
    def is_empty(self) -> bool:
        """Return whether the event loop has everything."""
        if self.is_open and self in self.broadcaster.group:
            return False
        return not self.pending and not self._queued

    @property
    def buffered_bytes(self) -> int:
        return self._queued_bytes

    def outstanding_bytes(self) -> int:
        """Count the bytes on their way to the client, queued or in flight."""
        in_flight = self._connection.bytes_in_flight() if self._connection is not None else 0
        return self._queued_bytes + in_flight

    # core.transport.Transport

    def caught_up(self) -> "asyncio.Future[None] | None":
        return None if self._backpressure is None else self._backpressure.caught_up()

    def send(self, frame: Frame) -> None:
        # As ``write_frame``, without the call: this is done for each ack.
        if self.is_open:
            batch_writer, pending = self.broadcaster, self.pending
            if not pending or self in batch_writer.group:
                pending += batch_writer.join(self)
            pending.append(frame.wire or frame.make_wire())

    def send_all(self, frames: Frames) -> None:
        if self.is_open and frames:
            if not self.pending or self in self.broadcaster.group:
                self.pending += self.broadcaster.join(self)
            pieces = frames.pieces()
            waiting = self._queued_bytes + sum(map(len, self.pending))
            self._replayed = min(self._replayed, waiting) + sum(map(len, pieces))
            self.pending += pieces
            self.joined += len(frames) - len(pieces)

    def close(self, code: int, final_frame: Frame, *, discard: bool = False) -> None:
        connection = self._connection
        if not self.is_open or connection is None:
            return
        if discard:
            if self in self.broadcaster.group:
                self.broadcaster.join(self)
            self._clear()
        # The final frame is taken however much is queued.
        self._limit = None
        self.send(final_frame)
        connection.begin_close(int(code), timeout=close_timeout(discard=discard))

    # For the connection

    def write_frame(self, frame: bytes) -> None:
        """Take a websocket frame for sending."""
        if self.is_open:
            if not self.pending or self in self.broadcaster.group:
                self.pending += self.broadcaster.join(self)
            self.pending.append(frame)

    def finish(self) -> None:
        """Take no more: the last frame is in."""
        self.is_open = False
        self._end_backpressure()
        self._connection = None
        self._on_slow_consumer = None
        self._on_backpressure = None

    def drop(self) -> None:
        """Forget the client: it is gone."""
        self.finish()
        self._clear()

    def flush(self) -> None:
        """Write the pending frames now; not within a delivery."""
        pending = self.pending
        if pending:
            self.pending = []
            self.joined = 0
            self._write(pending, b"".join(pending))

    def block(self) -> None:
        """Queue what comes from now on: the client is behind."""
        self.blocked = True

    def unblock(self) -> None:
        """Write what is queued: the client has read."""
        self.blocked = False
        self._write_queued()
        limit = self._limit
        if self._backpressure is not None and (
            limit is None or self._queued_bytes <= low_water(limit)
        ):
            self._end_backpressure()

    # For the batch writer

    def add_frames(self, frames: list[bytes]) -> None:
        """Add ``frames`` to the pending ones."""
        if self.is_open:
            self.pending += frames

    @staticmethod
    def write_turn(
        frames: list[bytes], group: Collection["SendBuffer"], joined: Collection["SendBuffer"]
    ) -> None:
        """Write ``frames`` to each buffer of ``group`` that has not ``joined``, and their pending ones to those that have.

        Joins equal frames once.
        """
        # As ``_write``, without the calls: this is done for each connection that is sent anything.
        data = b"".join(frames)
        is_small = len(data) <= SLICE_BYTES
        for buffer in group:
            if buffer.is_open and buffer not in joined:
                if is_small and not buffer.blocked:
                    try:
                        buffer._stream.write(data)
                    except RuntimeError:
                        buffer.drop()
                else:
                    buffer._write(frames, data)
        written: list[bytes] = []
        for buffer in joined:
            pending = buffer.pending
            if pending:
                buffer.pending = []
                buffer.joined = 0
                if pending != written:
                    written, data = pending, b"".join(pending)
                    is_small = len(data) <= SLICE_BYTES
                if is_small and not buffer.blocked:
                    try:
                        buffer._stream.write(data)
                    except RuntimeError:
                        buffer.drop()
                else:
                    buffer._write(pending, data)

    # Itself

    def _write(self, frames: list[bytes], data: bytes) -> None:
        """Write ``frames``, of which ``data`` consists, or queue them for a client that is behind."""
        size, limit = len(data), self._limit
        if size <= SLICE_BYTES and not self.blocked:
            self._write_now(data)
        elif limit is None or self._queued_bytes + size <= max_queued(limit, self._backpressure):
            if self._queued is None:
                self._queued = deque()
            self._queued.extend(frames)
            self._queued_bytes += size
            self._write_queued()
            if (
                limit is not None
                and self._backpressure is None
                and self._queued_bytes > high_water(limit) + self._replayed
            ):
                self._begin_backpressure()
        else:
            self._report_slow_consumer()

    def _write_queued(self) -> None:
        queued = self._queued
        while queued and not self.blocked:
            frames: list[bytes] = []
            size = 0
            while queued and (not frames or size + len(queued[0]) <= SLICE_BYTES):
                frame = queued.popleft()
                frames.append(frame)
                size += len(frame)
            self._queued_bytes -= size
            self._write_now(b"".join(frames))
        if not queued:
            self._queued = None
            self._replayed = 0

    def _write_now(self, data: bytes) -> None:
        try:
            self._stream.write(data)
        except RuntimeError:
            # uvloop: the connection broke within this turn, and is reported lost in the next.
            self.drop()

    def _clear(self) -> None:
        self.pending.clear()
        self.joined = 0
        self._queued = None
        self._queued_bytes = 0

    def _report_slow_consumer(self) -> None:
        if self._on_slow_consumer is not None:
            counters.slow_consumers += 1
            on_slow_consumer, self._on_slow_consumer = self._on_slow_consumer, None
            on_slow_consumer()

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
