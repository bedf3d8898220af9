"""What the ASGI server beneath a connection lets us reach, beyond ASGI.

ASGI has no word for «stop reading this connection», «cut it off» or «may I send?»; a slow reader and a publisher
that is too fast need all three. Where the server is not one that we know, they do nothing, and the server's own
bounds are what holds.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from http import HTTPStatus
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from channels.sessions import InstanceSessionWrapper

from dwsps_channels.connections.transports.in_flight import bytes_in_flight, bytes_in_kernel

if TYPE_CHECKING:
    from dwsps_channels.connections.transports.send_buffer import SendBuffer

logger = logging.getLogger("dwsps_channels.servers")


class ServerConnection:
    """A connection of a server of which we know nothing, and the contract of those that we know."""

    def writable(self) -> "asyncio.Future[None] | None":
        """Await what is returned before you send; ``None``: send at once."""
        return None

    def pause_reading(self) -> None:
        """Take no more from the client until ``resume_reading``."""

    def resume_reading(self) -> None:
        """Read on."""

    def abort(self) -> None:
        """Cut the connection off now, and drop what the server still holds for it."""

    def bytes_in_flight(self) -> int:
        """How many bytes the server and the kernel hold for the client, as far as that is known."""
        return 0

    def release(self) -> None:
        """Give the connection back to the server, so that it can be closed: nothing is sent any more."""


class UvicornConnection(ServerConnection):
    """Uvicorn itself waits in ``send`` for a slow reader, and reads only as fast as the application does."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def abort(self) -> None:
        self._transport.abort()

    def bytes_in_flight(self) -> int:
        return bytes_in_flight(self._transport)


class DaphneConnection(ServerConnection):
    """Daphne takes all that it is sent and reads all that comes, so both are regulated here.

    It is the push producer of Twisted's transport, which pauses it while more than 64 KiB wait to be written.
    """

    def __init__(self, protocol: Any, *, is_bare: bool = False) -> None:
        self._protocol = protocol
        self._transport = transport = protocol.transport
        self._paused: asyncio.Future[None] | None = None
        self._send_buffer: SendBuffer | None = None
        self.is_bare = is_bare
        """Whether nobody stands between the application and Daphne who might need to see what is sent."""
        # The HTTP channel of the handshake is still registered; its part is over.
        transport.unregisterProducer()
        transport.registerProducer(self, True)

    def watch(self, send_buffer: "SendBuffer") -> None:
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
        # What Twisted holds is as good as constant: it pauses us when it has 64 KiB.
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
                self._send_buffer.blocked = True

    def resumeProducing(self) -> None:
        if self._paused is not None:
            if not self._paused.done():
                self._paused.set_result(None)
            self._paused = None
            if self._send_buffer is not None:
                self._send_buffer.unblock()

    def stopProducing(self) -> None:
        # The connection is lost: whoever waits goes on, and finds out.
        self.resumeProducing()


_SEARCHED_AT_MOST = 64


def connection_of(send: Callable[..., Any]) -> ServerConnection:
    """The connection that an ASGI ``send`` writes to, found beneath whatever middleware wrapped it in."""
    for item in beneath(send):
        transport = getattr(item, "transport", None)
        if hasattr(transport, "abortConnection"):
            return DaphneConnection(item, is_bare=_is_bare(send))
        if hasattr(transport, "abort") and hasattr(transport, "pause_reading"):
            return UvicornConnection(transport)  # type: ignore[arg-type]
    _warn_once()
    return ServerConnection()


def reject_on_daphne(send: Callable[..., Any], status: int) -> bool:
    """Answer a handshake behind Daphne with an HTTP status. Its own way to reject knows 403 only.

    Return whether that was done: ``send`` may be another server's.
    """
    for item in beneath(send):
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


def beneath(send: Any) -> Iterator[Any]:
    """Yield what ``send`` is made of, and what that is made of, down to the server's own."""
    seen: set[int] = set()
    found: list[Any] = [send]
    for item in found:
        if id(item) in seen or len(seen) >= _SEARCHED_AT_MOST:
            continue
        seen.add(id(item))
        yield item
        found.extend(_wrapped_in(item))


def _is_bare(send: Any) -> bool:
    """Whether ``send`` is the server's own, but for Channels' session middleware, to which a message says nothing."""
    while isinstance(owner := getattr(send, "__self__", None), InstanceSessionWrapper):
        send = owner.real_send
    return isinstance(send, partial) and getattr(send.func, "__module__", "") == "daphne.server"


def _wrapped_in(item: Any) -> Iterable[Any]:
    if isinstance(item, partial):
        return [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, MethodType):
        return [item.__self__]
    if isinstance(item, FunctionType):
        return [cell.cell_contents for cell in item.__closure__ or () if _is_filled(cell)]
    # An object that holds the server's send, as Channels' session middleware does.
    return [value for value in getattr(item, "__dict__", {}).values() if callable(value)]


def _is_filled(cell: Any) -> bool:
    try:
        return callable(cell.cell_contents)
    except ValueError:
        return False


_warned = False


def _warn_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        logger.warning(
            "the ASGI server is neither Daphne nor uvicorn, or a middleware hides it: a client that does not read "
            "can be closed, but not cut off"
        )
