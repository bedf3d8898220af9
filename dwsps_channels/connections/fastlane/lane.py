"""What the fast lane offers an application, as ``scope["extensions"]["dwsps.fastlane"]``: the connection itself."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from dwsps_channels.core.transport import Transport

EXTENSION: Final = "dwsps.fastlane"


class Rider(Protocol):
    """What takes a connection over, as its callbacks; all are called from the event loop."""

    @property
    def receive(self) -> Callable[[str | bytes], Awaitable[None] | None]:
        """Handles a message. If it returns an awaitable, the next one is not read before that is done."""

    def receive_too_large(self, size: int, head: bytes, tail: bytes) -> None:
        """A message of ``size`` bytes has come, more than the limit; these are its first bytes and its last."""

    def receive_control(self, size: int) -> None:
        """A ping or a pong of ``size`` bytes has come. The connection answers it, if it is not closed by then."""

    def lag(self, is_behind: bool) -> None:
        """A part of the limit waits for the client (``True``), or publishers need not wait for it any more."""

    def fall_behind(self) -> None:
        """More than the limit waits for a client that does not read: close the transport."""

    def fall_silent(self) -> None:
        """The client no longer answers pings: close the transport."""

    def closed(self) -> None:
        """The connection is gone. Called once, whatever happened before."""


class Ridden(Protocol):
    """What a lane needs of its connection."""

    def ride(
        self, limit: int, board: Callable[[Transport], Rider], message_limit: int | None = None
    ) -> None: ...


class Lane:
    """The offer. An application that does not know it, or a middleware that takes it out of the scope, declines it."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Ridden) -> None:
        self._connection = connection

    def ride(
        self, limit: int, board: Callable[[Transport], Rider], message_limit: int | None = None
    ) -> None:
        """Take the connection over, once ``websocket.accept`` was sent; the application may return then.

        ``board`` is called at once, with the transport to send by, and gives who receives. What has come since the
        accept is received before this returns. ``limit`` is how many bytes may wait for a client that does not read,
        ``message_limit`` how many a message may have that is received whole; ``None``: as many as the server takes.

        Raises:
            RuntimeError: the connection was not accepted, or was taken before.
        """
        self._connection.ride(limit, board, message_limit)
