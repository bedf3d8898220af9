"""A connection of Daphne, and the transport that writes on it where nothing stands in between."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

from channels.sessions import InstanceSessionWrapper

from dwsps_channels.connections.servers.unwrap import unwrap
from dwsps_channels.connections.transports.asgi import Send
from dwsps_channels.connections.transports.in_flight import bytes_in_kernel
from dwsps_channels.connections.transports.send_buffer import (
    MAX_FRAMES_PER_BATCH,
    SendBuffer,
    TurnWriter,
)
from dwsps_channels.connections.transports.server_connection import ServerConnection


class DaphneConnection(ServerConnection):
    """Daphne takes all that it is sent and reads all that comes, so both are regulated here.

    It is the push producer of Twisted's transport, which pauses it while more than 64 KiB wait to be written.
    """

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._transport = transport = protocol.transport
        self._paused: asyncio.Future[None] | None = None
        self._send_buffer: SendBuffer | None = None
        # The HTTP channel of the handshake is still registered; its part is over.
        transport.unregisterProducer()
        transport.registerProducer(self, True)

    def watch(self, send_buffer: SendBuffer) -> None:
        """Block and unblock ``send_buffer``, which writes on this connection."""
        self._send_buffer = send_buffer

    def write(self, data: bytes) -> None:
        """Write websocket frames, past Daphne."""
        protocol = self._protocol
        # After a close frame, the server's or its answer to the client's, there is to be nothing more.
        if protocol.state == protocol.STATE_OPEN:
            self._transport.write(data)

    def writable(self) -> "asyncio.Future[None] | None":
        return self._paused

    def pause_reading(self) -> None:
        self._transport.pauseProducing()

    def resume_reading(self) -> None:
        self._transport.resumeProducing()

    def abort(self) -> None:
        self._transport.abortConnection()

    def bytes_in_flight(self) -> int:
        # Twisted's own buffer is left out, as it hardly changes: at 64 KiB it pauses us.
        return bytes_in_kernel(getattr(self._transport, "socket", None))

    def release(self) -> None:
        self.resumeProducing()
        # A transport with a producer does not close before the producer says that it is done.
        self._transport.unregisterProducer()

    # Twisted's IPushProducer

    def pauseProducing(self) -> None:
        if self._paused is None:
            self._paused = asyncio.get_running_loop().create_future()
            if self._send_buffer is not None:
                self._send_buffer.block()

    def resumeProducing(self) -> None:
        if self._paused is not None:
            if not self._paused.done():
                self._paused.set_result(None)
            self._paused = None
            if self._send_buffer is not None:
                self._send_buffer.unblock()

    def stopProducing(self) -> None:
        # The connection is lost: a writer that waits goes on, and finds out.
        self.resumeProducing()


class DaphneTransport(SendBuffer):
    """Writes websocket frames on Daphne's connection itself.

    A message that takes Daphne's own way passes the session middleware, Daphne, autobahn and what these log, and
    becomes a new frame for each subscriber: nearly all that a delivery costs. Only opening and closing take that way.
    """

    __slots__ = ("_daphne", "_ending", "_send")

    def __init__(
        self,
        send: Send,
        connection: DaphneConnection,
        batch_writer: TurnWriter,
        limit: int,
        on_slow_consumer: Callable[[], None],
        on_backpressure: Callable[[bool], None],
    ) -> None:
        super().__init__(connection, batch_writer, self)
        self.set_limit(limit, on_slow_consumer, on_backpressure)
        self._send = send
        self._daphne = connection
        self._ending: asyncio.Task[None] | None = None
        connection.watch(self)

    def start(self) -> None:
        """Do nothing: nothing has to run."""

    def drained(self) -> asyncio.Future[None] | None:
        """Await what is returned before you read on from this client; ``None``: read on."""
        if len(self.pending) + self.joined >= MAX_FRAMES_PER_BATCH:
            self.flush()
        writable = self._daphne.writable()
        # A reader that gives up waiting does so for itself alone.
        return None if writable is None else asyncio.shield(writable)

    # send_buffer.Closable

    def begin_close(self, code: int, *, timeout: float) -> None:
        self.finish()
        loop = asyncio.get_running_loop()
        loop.call_later(timeout, self._daphne.abort)
        self._ending = loop.create_task(self._end(code))

    def bytes_in_flight(self) -> int:
        return self._daphne.bytes_in_flight()

    async def _end(self, code: int) -> None:
        # This turn's frames are written by now: that was due before this task was made.
        while not self.is_empty and (writable := self._daphne.writable()) is not None:
            await writable
        with suppress(Exception):  # servers differ in what they raise when the client has gone
            await self._send({"type": "websocket.close", "code": code})
        self._daphne.release()


def is_bare(send: Any) -> bool:
    """Return whether ``send`` is Daphne's own, but for Channels' session middleware, which ignores messages."""
    while isinstance(owner := getattr(send, "__self__", None), InstanceSessionWrapper):
        send = owner.real_send
    return isinstance(send, partial) and getattr(send.func, "__module__", "") == "daphne.server"


def reject_on_daphne(send: Callable[..., Any], status: int) -> bool:
    """Answer a handshake behind Daphne with an HTTP status. Its own way to reject knows 403 only.

    Return whether that was done: ``send`` may be another server's.
    """
    for item in unwrap(send):
        handshake = getattr(item, "handshake_deferred", None)
        if handshake is not None and hasattr(item.transport, "abortConnection"):
            from autobahn.websocket.types import ConnectionDeny

            # As its ``serverReject``.
            del item.handshake_deferred
            deny: Any = ConnectionDeny
            handshake.errback(deny(status, HTTPStatus(status).phrase))
            item.server.protocol_disconnected(item)
            return True
    return False
