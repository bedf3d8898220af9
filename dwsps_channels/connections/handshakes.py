"""Websocket handshakes that wait for something or are rejected, on every server."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, TypeVar

from dwsps_channels.connections.servers.daphne import reject_on_daphne
from dwsps_channels.logs.throttle import LogThrottle
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.text import printable

logger = logging.getLogger("dwsps_channels.handshakes")

T = TypeVar("T")


class ClientGone(Exception):
    """A client that disconnected before its handshake was answered."""


class ReplayedReceive:
    """An ASGI ``receive`` that gives ``websocket.connect``, which was taken before, once more, and then what comes."""

    __slots__ = ("_connect", "receive")

    def __init__(self, connect: Any, receive: Any) -> None:
        self._connect = connect
        self.receive = receive
        """The server's own. Use it after the first event, to save a call for each frame."""

    async def __call__(self) -> Any:
        if self._connect is not None:
            connect, self._connect = self._connect, None
            return connect
        return await self.receive()


async def while_connected(receive: Any, asking: Coroutine[Any, Any, T]) -> T:
    """Await ``asking`` for a client that waits for its handshake; ``websocket.connect`` was received before.

    Raises:
        ClientGone: the client disconnected first; ``asking`` is cancelled. One that sends too early counts as gone.
        Exception: what ``asking`` raises.
    """
    asked = asyncio.ensure_future(asking)
    leaving = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((asked, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            raise ClientGone
        return asked.result()
    finally:
        await _cancel(asked, leaving)


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not report it


async def reject(scope: Any, send: Any, status: int) -> None:
    """Answer the handshake with an HTTP status, or with 403 if the server supports no other."""
    if status != 403 and "websocket.http.response" in (scope.get("extensions") or {}):
        await send({"type": "websocket.http.response.start", "status": status, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b""})
        # uvicorn logs an error if the application returns before it has closed the connection.
        await asyncio.sleep(0.1)
    elif status == 403 or not reject_on_daphne(send, status):
        await send({"type": "websocket.close", "code": CloseCode.FORBIDDEN.value})


class Unanswered:
    """Clients that cannot be looked up for now. Their handshakes get HTTP 503, and they come back."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.rejected = 0
        """The number of handshakes since the process started."""
        self._throttle = LogThrottle(clock=clock)

    async def reject(self, scope: Any, send: Any, error: Exception) -> None:
        """Answer a handshake with 503 because of ``error``."""
        self.rejected += 1
        if self._throttle.is_due(type(error)):
            logger.warning(
                "connections are rejected with 503, because users and peers cannot be looked up: %s; %d since the start",
                printable(str(error)),
                self.rejected,
            )
        await reject(scope, send, 503)

    def note(self, error: Exception) -> None:
        """Log that the token of an open connection could not be looked up because of ``error``."""
        if self._throttle.is_due(("token", type(error))):
            logger.warning("tokens cannot be looked up: %s", printable(str(error)))


unanswered = Unanswered()
"""This process's."""
