"""The connection of an ASGI server beneath a transport, beyond ASGI."""

import asyncio


class ServerConnection:
    """A connection of an unknown server, and the contract of those that we know (``connections.servers``).

    ASGI has no word for "stop reading this connection", "cut it off" and "may I send?". A slow reader and a publisher
    that is too fast need all three. On an unknown server they do nothing, and the server's own bounds apply.
    """

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
        """Count the bytes that the server and the kernel hold for the client, as far as that is known."""
        return 0

    def release(self) -> None:
        """Give the connection back to the server, so that it can be closed: nothing is sent any more."""
