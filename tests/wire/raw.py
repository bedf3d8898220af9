"""A websocket connection without a library, which would read ahead."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

MIB = 1024 * 1024


class SlowReader:
    """Subscribes to ``slow``, and reads no more until it is told to."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.sendall(masked(b'{"type":"subscribe","topic":"slow"}'))
        assert b'"ack"' in connection.recv(4096)

    def read_to(self, code: int) -> bytes:
        """Read on, until a close frame with this code has come; return the last 4 KiB."""
        return read_to_the_end(self.connection, code.to_bytes(2, "big"))


def read_to_the_end(connection: socket.socket, code: bytes = b"") -> bytes:
    """Read until the server ends the connection, or sends this close code; return the last 4 KiB."""
    tail = b""
    while True:
        try:
            data = connection.recv(MIB)
        except ConnectionResetError:
            return tail
        tail = (tail + data)[-4096:]
        # A reason may follow the code, in a frame that ends what is sent.
        if not data or (code and code in tail[-130:]):
            return tail


@contextmanager
def raw_websocket(port: int) -> Iterator[socket.socket]:
    """A connection after its handshake, without a library that reads ahead."""
    # The buffer is small and fixed, so that the kernel does not read ahead much either.
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", port))
        connection.sendall(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 101"), answer
        yield connection


def masked(payload: bytes) -> bytes:
    """A whole text message in one frame, masked with zeros (RFC 6455, section 5.3)."""
    if len(payload) < 126:
        length = bytes([0x80 | len(payload)])
    else:
        length = bytes([0x80 | 126]) + len(payload).to_bytes(2, "big")
    return b"\x81" + length + b"\0\0\0\0" + payload


def unread(port: int) -> int:
    """Return the number of bytes that the kernel holds for the listener on ``port``."""
    with open("/proc/net/tcp") as table:
        next(table)
        rows = [line.split() for line in table]
    return sum(int(row[4].partition(":")[2], 16) for row in rows if row[1].endswith(f":{port:04X}"))
