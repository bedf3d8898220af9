"""The transport of a connection behind Daphne, where nothing stands in between."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from dwsps_channels.connections.servers.connection import DaphneConnection
from dwsps_channels.connections.transports.asgi import Send
from dwsps_channels.connections.transports.batch_writer import BatchWriter
from dwsps_channels.connections.transports.send_buffer import MAX_FRAMES_PER_BATCH, SendBuffer


class DaphneTransport(SendBuffer):
    """Writes websocket frames on Daphne's connection itself.

    A message that takes Daphne's own way passes the session middleware, Daphne, autobahn and what these log, and is
    made a frame anew for each subscriber: nearly all that a delivery costs. What opens and closes takes that way.
    """

    __slots__ = ("_connection", "_ending", "_send")

    def __init__(
        self,
        send: Send,
        connection: DaphneConnection,
        batch_writer: BatchWriter,
        limit: int,
        on_slow_consumer: Callable[[], None],
        on_backpressure: Callable[[bool], None],
    ) -> None:
        super().__init__(connection, batch_writer, self)
        self.set_limit(limit, on_slow_consumer, on_backpressure)
        self._send = send
        self._connection = connection
        self._ending: asyncio.Task[None] | None = None
        connection.watch(self)

    def start(self) -> None:
        """Do nothing: nothing has to batch."""

    def drained(self) -> asyncio.Future[None] | None:
        """Await what is returned before you read on from this client; ``None``: read on."""
        if len(self.pending) >= MAX_FRAMES_PER_BATCH:
            self.flush()
        writable = self._connection.writable()
        # Whoever gives up waiting does so for itself alone.
        return None if writable is None else asyncio.shield(writable)

    def begin_close(self, code: int, *, timeout: float) -> None:
        """See ``send_buffer.Closing``."""
        self.finish()
        loop = asyncio.get_running_loop()
        loop.call_later(timeout, self._connection.abort)
        self._ending = loop.create_task(self._end(code))

    def bytes_in_flight(self) -> int:
        """See ``send_buffer.Closing``."""
        return self._connection.bytes_in_flight()

    async def _end(self, code: int) -> None:
        # This turn's frames are written by now: that was due before this task was made.
        while not self.is_empty and (writable := self._connection.writable()) is not None:
            await writable
        with suppress(Exception):  # servers differ in what they raise when the client has gone
            await self._send({"type": "websocket.close", "code": code})
        self._connection.release()
