"""A client that sends any bytes whatever, and understands what a server may answer."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
KEY = b"MDEyMzQ1Njc4OWFiY2RlZg=="
ACCEPT = b"BACScCJPNqyz+UBoqMH89VmURoA="  # to that key, by RFC 6455, section 4.2.2
TIMEOUT = 30.0


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes | None = b"\x37\xfa\x21\x3d",
    length: bytes | None = None,
) -> bytes:
    """A frame as a client sends it; ``length``: these bytes in place of the right ones."""
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    if length is None:
        size = len(payload)
        if size < 126:
            length = bytes([size])
        elif size < 1 << 16:
            length = b"\x7e" + size.to_bytes(2, "big")
        else:
            length = b"\x7f" + size.to_bytes(8, "big")
    if mask is None:
        return bytes([first]) + length + payload
    head = bytes([first, length[0] | 0x80]) + length[1:] + mask
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return head + masked.to_bytes(len(payload), "big")


def close(code: int | None = None, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)


class Received(NamedTuple):
    opcode: int
    payload: bytes


class RawClient:
    """One connection to a server that runs in another process."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def request(
        self,
        path: str = "/echo/",
        *,
        method: str = "GET",
        without: str | None = None,
        **headers: str | None,
    ) -> bytes:
        """An opening handshake; a header of None is left out, one with line feeds is several."""
        lines: dict[str, str | None] = {
            "Host": "127.0.0.1",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": KEY.decode(),
            "Sec-WebSocket-Version": "13",
        }
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        sent = [f"{method} {path} HTTP/1.1"]
        for name, values in lines.items():
            if values is not None:
                sent += [f"{name}: {value}" for value in values.split("\n")]
        return "\r\n".join([*sent, "", ""]).encode("latin-1")

    def open(self, path: str = "/echo/", **headers: str | None) -> dict[str, str]:
        """Do the opening handshake; the response's headers."""
        self.send(self.request(path, method="GET", **headers))
        status, found = self.response()
        assert status == 101, (status, found)
        return found

    def response(self) -> tuple[int, dict[str, str]]:
        """The status and headers of an HTTP response; header names in lower case."""
        while b"\r\n\r\n" not in self._read:
            self._more()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        return int(status.split(" ")[1]), {name.lower(): value for name, _, value in pairs}

    def rest(self) -> bytes:
        """All that comes until the server closes."""
        try:
            while data := self.socket.recv(1 << 16):
                self._read += data
        except ConnectionResetError:
            pass
        return self._read

    def frames(self) -> Iterator[Received]:
        """Receive frames until the server closes the connection."""
        while True:
            try:
                yield self.receive()
            except EOFError:
                return

    def receive(self) -> Received:
        """Return the next frame. EOFError: the connection has ended."""
        first, second = self._take(2)
        assert not first & 0x70, "reserved bits"
        assert first & 0x80, "the server sends no fragments"
        assert not second & 0x80, "a server does not mask"
        size = second
        if size == 126:
            size = int.from_bytes(self._take(2), "big")
        elif size == 127:
            size = int.from_bytes(self._take(8), "big")
        return Received(first & 0x0F, self._take(size))

    def _take(self, count: int) -> bytes:
        while len(self._read) < count:
            self._more()
        taken, self._read = self._read[:count], self._read[count:]
        return taken

    def _more(self) -> None:
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError
        self._read += data

    def is_alive(self) -> bool:
        """Return whether a ping is answered; drop what comes before the pong."""
        probe = os.urandom(8)
        self.send(frame(PING, probe))
        return any(received == (PONG, probe) for received in self.frames())


@contextmanager
def raw_client(port: int) -> Iterator[RawClient]:
    client = RawClient(port)
    with client.socket:
        yield client
