"""The scope extension by which an application takes its connection over from the fast lane."""

from asyncio import Future
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from dwsps_channels.core.transport import Transport

EXTENSION: Final = "dwsps.fastlane"
"""The key of a ``ConnectionTakeover`` in ``scope["extensions"]``."""

MakeHandler = Callable[[Transport], "ConnectionHandler"]
"""Makes the handler of a connection from the transport to send by."""


class ConnectionHandler(Protocol):
    """The callbacks of a connection that was taken over; all are called from the event loop."""

    @property
    def receive(self) -> Callable[[str | bytes], Awaitable[None] | None]:
        """Handle a message. If this returns an awaitable, the next message is read when that is done."""

    def receive_too_large(self, size: int, head: bytes, tail: bytes) -> None:
        """Handle a message of ``size`` bytes, more than the limit: ``head`` and ``tail`` are its first and last bytes."""

    def receive_control(self, size: int) -> None:
        """Count a ping or a pong of ``size`` bytes. The connection answers it, unless this call closes it."""

    def on_backpressure(self, is_behind: bool) -> None:
        """Have publishers wait for the client, which is behind (``True``), or wait no longer."""

    def on_slow_consumer(self) -> None:
        """Close the transport: the client does not read, and more than its limit is queued."""

    def on_ping_timeout(self) -> None:
        """Close the transport: the client does not answer pings."""

    def closed(self, handled: Future[None] | None) -> None:
        """Release what the handler holds: the connection is gone. Called exactly once.

        ``handled`` is done once the last message was handled; ``None``: it was before.
        """


class Takeable(Protocol):
    """A connection that can be taken over."""

    def take_over(
        self, limit: int, make_handler: MakeHandler, message_limit: int | None = None
    ) -> None: ...


class ConnectionTakeover:
    """The offer of a connection to its application. A middleware declines it by removing it from the scope."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Takeable) -> None:
        self._connection = connection

    def take_over(
        self, limit: int, make_handler: MakeHandler, message_limit: int | None = None
    ) -> None:
        """Take the connection over. Call it after sending ``websocket.accept``; the application may return then.

        Calls ``make_handler`` at once, and hands the new handler whatever arrived since the accept before returning.

        Args:
            limit: the bytes that may wait for a client that does not read.
            make_handler: makes the handler from the transport to send by.
            message_limit: the bytes of a message that is received whole; ``None``: as many as the server takes.

        Raises:
            RuntimeError: the connection is not accepted yet, or was taken over before.
        """
        self._connection.take_over(limit, make_handler, message_limit)
