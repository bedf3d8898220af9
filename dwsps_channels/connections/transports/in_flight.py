"""The bytes that wait below a transport: in the event loop's buffer, and in the kernel's."""

import asyncio
from sys import byteorder
from typing import Any

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def bytes_in_flight(transport: asyncio.WriteTransport) -> int:
    """Count the bytes that ``transport`` and the kernel hold for the client."""
    return transport.get_write_buffer_size() + bytes_in_kernel(transport.get_extra_info("socket"))


def bytes_in_kernel(socket: Any) -> int:
    """Count the bytes that the other side has not acknowledged; 0 if that is not known.

    The client's kernel acknowledges what it has room for: if the client is behind, that is what it reads.
    """
    if socket is None or fcntl is None:
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, bytes(4)), byteorder)
    except (OSError, ValueError):  # the socket is closed
        return 0
