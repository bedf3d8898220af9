"""The transport of a connection behind an ASGI server."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from dwsps_channels.connections.servers.connection import Connection
from dwsps_channels.connections.transports.lag import PART, Lag, room
from dwsps_channels.protocol.frames import Frame

logger = logging.getLogger("dwsps_channels.transport")

Send = Callable[[dict[str, Any]], Awaitable[None]]

# How long a client that is being closed has to read what is still on its way.
CLOSE_TIMEOUT = 5.0
SLOW_CLOSE_TIMEOUT = 1.0

# While more than this waits for a client, its own frames are not read: one that sends without reading is slowed,
# and not closed for the acks it causes.
CONGESTED_BYTES = 64 * 1024


class AsgiTransport:
    """Keeps what is to be sent, and sends it from a task, as fast as the client reads.

    When more than ``limit`` bytes wait for a client that does not read (see ``Lag``), or several times as many for one that
    had no time to, what comes next is dropped and ``on_overflow`` is called, once, from the event loop: it is expected to close the transport. When a part of that
    waits, ``on_lag`` is called with ``True``; with ``False`` once publishers need not wait for the client any more.
    """

    broadcaster = None

    def __init__(
        self,
        send: Send,
        connection: Connection,
        limit: int,
        on_overflow: Callable[[], None],
        on_lag: Callable[[bool], None],
    ) -> None:
        self._send = send
        self._connection = connection
        self._limit = limit
        self._on_overflow = on_overflow
        self._on_lag = on_lag
        # Made when the client falls behind, and dropped when it has caught up.
        self._lag: Lag | None = None
        self._lag_bytes = limit // PART
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Frame] = deque()
        self._buffered = 0
        # True while the server does not take more: what waits then waits for the reader.
        self._blocked = False
        self._overflowed = False
        self._wake: asyncio.Future[None] | None = None
        # Done once no more than CONGESTED_BYTES wait, or none of it matters any more.
        self._relief: asyncio.Future[None] | None = None
        self._code: int | None = None
        self.writer: asyncio.Task[None] | None = None
        """What sends; ends with the connection."""

    @property
    def buffered(self) -> int:
        """How many bytes wait here; the server and the network hold at most some 100 KiB more."""
        return self._buffered

    def queued(self) -> int:
        """How many bytes are on their way to the client, here and below."""
        return self._buffered + self._connection.unsent()

    def caught_up(self) -> asyncio.Future[None] | None:
        return None if self._lag is None else self._lag.relief()

    def relief(self) -> asyncio.Future[None] | None:
        """Await what is returned before you read on from this client; ``None``: read on."""
        if self._buffered <= CONGESTED_BYTES or self._code is not None:
            return None
        if self._relief is None:
            self._relief = self._loop.create_future()
        return self._relief

    def _relieve(self) -> None:
        if self._relief is not None:
            if not self._relief.done():
                self._relief.set_result(None)
            self._relief = None

    def send(self, frame: Frame) -> None:
        if self._code is not None or self._overflowed:
            return
        self._waiting.append(frame)
        self._buffered += len(frame.data)
        if self._wake is not None:
            self._wake.set_result(None)
            self._wake = None
        elif self._buffered > self._lag_bytes:
            self._fall_back()

    def _fall_back(self) -> None:
        # By way of the loop, as whoever sends is in the middle of a delivery.
        if self._buffered > room(self._limit, self._lag):
            self._overflow()
        elif self._blocked and self._lag is None:
            self._loop.call_soon(self._begin_lag)

    def _begin_lag(self) -> None:
        if self._lag is None and self._code is None and self._buffered > self._lag_bytes:
            self._lag = Lag(self.queued, self._tell_lag)

    def _tell_lag(self, is_behind: bool) -> None:
        self._on_lag(is_behind)
        # It was given time, and did not read.
        if self._lag is not None and self._buffered > self._limit:
            self._overflow()

    def _overflow(self) -> None:
        if not self._overflowed:
            self._overflowed = True
            self._loop.call_soon(self._on_overflow)

    def _end_lag(self) -> None:
        if self._lag is not None:
            lag, self._lag = self._lag, None
            lag.end()

    def close(self, code: int, farewell: Frame, *, discard: bool = False) -> None:
        if self._code is not None:
            return
        if discard:
            self._waiting.clear()
            self._buffered = 0
        self._end_lag()
        self._waiting.append(farewell)
        self._buffered += len(farewell.data)
        self._code = int(code)  # autobahn takes no other kind of integer
        patience = SLOW_CLOSE_TIMEOUT if discard else CLOSE_TIMEOUT
        # Also once the application is done: uvicorn alone would wait ten seconds for the client's close.
        self._loop.call_later(patience, self._connection.abort)
        self._relieve()
        if self._wake is not None:
            self._wake.set_result(None)
            self._wake = None

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
            if self._relief is not None and self._buffered <= CONGESTED_BYTES:
                self._relieve()
            if self._lag is not None and self._buffered <= self._lag_bytes // 2:
                self._end_lag()

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
        self._relieve()
        self._end_lag()
