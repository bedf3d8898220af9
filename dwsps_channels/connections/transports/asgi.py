"""The transport of a connection behind an ASGI server."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from dwsps_channels.connections.transports.backpressure import (
    Backpressure,
    high_water,
    low_water,
    max_queued,
)
from dwsps_channels.connections.transports.closing import close_timeout
from dwsps_channels.connections.transports.counters import counters
from dwsps_channels.connections.transports.server_connection import ServerConnection
from dwsps_channels.protocol.frames import Frame, Frames

logger = logging.getLogger("dwsps_channels.transport")

Send = Callable[[dict[str, Any]], Awaitable[None]]

# While more than this is queued for a client, its own frames are not read: a client that sends without reading is
# slowed, and not closed for the acks that it causes.
CONGESTED_BYTES = 64 * 1024

# After so many frames of a replay other clients have their turn: it may have thousands, and a server that takes them all
# never gives way to other tasks. Live messages are written at once: publishers could else add more than is written.
FRAMES_BETWEEN_YIELDS: Final = 64


class AsgiTransport:
    """Implements ``core.transport.Transport``: queues frames, and sends them from a task as fast as the client reads.

    ``limit``, ``on_slow_consumer`` and ``on_backpressure`` are as for ``SendBuffer.set_limit``.
    """

    broadcaster = None

    def __init__(
        self,
        send: Send,
        connection: ServerConnection,
        limit: int,
        on_slow_consumer: Callable[[], None],
        on_backpressure: Callable[[bool], None],
    ) -> None:
        self._send = send
        self._connection = connection
        self._limit = limit
        self._on_slow_consumer = on_slow_consumer
        self._on_backpressure = on_backpressure
        # Made when the client falls behind, and dropped when it has caught up.
        self._backpressure: Backpressure | None = None
        self._high_water = high_water(limit)
        self._low_water = low_water(limit)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Frame] = deque()
        self._buffered = 0
        # The bytes of replays, until nothing waits: publishers do not wait for these.
        self._replayed = 0
        # True while the server does not take more: what waits then waits for the reader.
        self._blocked = False
        self._is_slow_reported = False
        self._wake: asyncio.Future[None] | None = None
        # Done once no more than CONGESTED_BYTES wait, or none of it matters any more.
        self._drained: asyncio.Future[None] | None = None
        self._code: int | None = None
        self.writer: asyncio.Task[None] | None = None
        """The task that sends; it ends with the connection."""

    @property
    def buffered_bytes(self) -> int:
        # The server and the network hold at most some 100 KiB more.
        return self._buffered

    def outstanding_bytes(self) -> int:
        """Count the bytes on their way to the client, queued or in flight."""
        return self._buffered + self._connection.bytes_in_flight()

    def caught_up(self) -> asyncio.Future[None] | None:
        return None if self._backpressure is None else self._backpressure.caught_up()

    def drained(self) -> asyncio.Future[None] | None:
        """Await what is returned before you read on from this client; ``None``: read on."""
        if self._buffered <= CONGESTED_BYTES or self._code is not None:
            return None
        if self._drained is None:
            self._drained = self._loop.create_future()
        return self._drained

    def _set_drained(self) -> None:
        if self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None

    def send(self, frame: Frame) -> None:
        if self._code is not None or self._is_slow_reported:
            return
        self._waiting.append(frame)
        self._buffered += len(frame.data)
        if (wake := self._wake) is not None:
            self._wake = None
            if not wake.done():  # a loop that ends cancels the writer
                wake.set_result(None)
        elif self._buffered > self._high_water:
            self._fall_back()

    def send_all(self, frames: Frames) -> None:
        self._replayed = min(self._replayed, self._buffered) + sum(map(len, frames))
        for frame in frames:
            self.send(frame)

    def _fall_back(self) -> None:
        # By way of the loop, as the caller is in the middle of a delivery.
        if self._buffered > max_queued(self._limit, self._backpressure):
            self._report_slow_consumer()
        elif self._blocked and self._backpressure is None and self._is_behind():
            self._loop.call_soon(self._begin_backpressure)

    def _is_behind(self) -> bool:
        return self._buffered > self._high_water + self._replayed

    def _begin_backpressure(self) -> None:
        if self._backpressure is None and self._code is None and self._is_behind():
            self._backpressure = Backpressure(self.outstanding_bytes, self._tell_backpressure)

    def _tell_backpressure(self, is_behind: bool) -> None:
        self._on_backpressure(is_behind)
        # It was given time, and did not read.
        if self._backpressure is not None and self._buffered > self._limit:
            self._report_slow_consumer()

    def _report_slow_consumer(self) -> None:
        if not self._is_slow_reported:
            self._is_slow_reported = True
            counters.slow_consumers += 1
            self._loop.call_soon(self._on_slow_consumer)

    def _end_backpressure(self) -> None:
        if self._backpressure is not None:
            backpressure, self._backpressure = self._backpressure, None
            backpressure.end()

    def close(self, code: int, final_frame: Frame, *, discard: bool = False) -> None:
        # What was dropped makes the final frame untrue, which says how much was sent: the close for that comes at once.
        if self._code is not None or (self._is_slow_reported and not discard):
            return
        if discard:
            self._waiting.clear()
            self._buffered = 0
        self._end_backpressure()
        self._waiting.append(final_frame)
        self._buffered += len(final_frame.data)
        self._code = int(code)  # autobahn takes no other kind of integer
        # Also once the application is done: uvicorn alone would wait ten seconds for the client's close.
        self._loop.call_later(close_timeout(discard=discard), self._connection.abort)
        self._set_drained()
        if (wake := self._wake) is not None:
            self._wake = None
            if not wake.done():
                wake.set_result(None)

    def start(self) -> None:
        """Send what is taken, until closed. Undo it with ``drop``."""
        self.writer = self._loop.create_task(self._write())

    async def _write(self) -> None:
        try:
            while True:
                await self._write_waiting()
                if self._code is not None:
                    await self._send({"type": "websocket.close", "code": self._code})
                    self._connection.release()
                    return
                self._wake = self._loop.create_future()
                await self._wake
        except Exception as error:
            # Servers differ in what they raise when the client has gone; the receiving side tells the session.
            logger.debug("a connection could not be written to: %r", error)
            self._connection.abort()
            self._forget()

    async def _write_waiting(self) -> None:
        waiting, send, connection = self._waiting, self._send, self._connection
        sent = 0
        while waiting:
            # If a send gives way to other tasks, it is because the reader is behind.
            self._blocked = True
            if (writable := connection.writable()) is not None:
                await writable
                continue
            frame = waiting.popleft()
            self._buffered -= len(frame.data)
            await send({"type": "websocket.send", "text": frame.text})
            self._blocked = False
            if self._drained is not None and self._buffered <= CONGESTED_BYTES:
                self._set_drained()
            if self._backpressure is not None and self._buffered <= self._low_water:
                self._end_backpressure()
            sent += 1
            if self._replayed and sent % FRAMES_BETWEEN_YIELDS == 0:
                await asyncio.sleep(0)
        self._replayed = 0

    def drop(self) -> None:
        """Forget the client: it is gone."""
        self._forget()
        if self.writer is not None:
            self.writer.cancel()

    def _forget(self) -> None:
        self._code = self._code or 1006
        self._wake = None
        self._waiting.clear()
        self._buffered = 0
        self._set_drained()
        self._end_backpressure()
