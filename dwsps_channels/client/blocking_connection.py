"""One websocket connection over a blocking socket: no event loop and no thread, so it works wherever Python runs."""

import socket
import ssl as tls
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final, Self

from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from dwsps_channels.client.address import Address
from dwsps_channels.client.connection import (
    BROKEN,
    MAX_FRAME_BYTES,
    WithoutDebug,
    connect_error,
    logger,
)
from dwsps_channels.client.errors import ConnectionClosed, Unreachable

_READ_BYTES: Final = 65536


class BlockingConnection:
    """An open connection, for one caller at a time. Made by ``open``.

    The server's pings are answered while something is received, and not otherwise. A deadline is a time of
    ``time.monotonic``. Once a method has raised, the connection is of no use: close it.
    """

    def __init__(self, sock: socket.socket, protocol: ClientProtocol) -> None:
        self._socket = sock
        self._protocol = protocol
        self._messages: list[bytes] = []
        """Came in and were not received yet."""
        self._parts: list[bytes] = []
        """Of a message that has not come in as a whole."""

    @classmethod
    def open(cls, url: str, *, token: Callable[[], str], deadline: float) -> Self:
        """Connect to ``url``, with what ``token`` gives in the header ``Authorization``; it is asked once somebody is there.

        As ``open_connection``, it follows neither a proxy nor a redirect, and does not connect to link-local addresses.
        The deadline does not hold for looking up the host's name: the system has a timeout of its own for that.

        Raises:
            ConnectError: no connection came about; its subclasses say why.
            TimeoutError: none before the deadline.
            Exception: what ``token`` raises.
        """
        address = Address.parse(url)
        protocol = ClientProtocol(
            parse_uri(address.uri), max_size=MAX_FRAME_BYTES, logger=WithoutDebug(logger)
        )
        connection = cls(_connect_tcp(address, deadline), protocol)
        try:
            if address.secure:
                connection._begin_tls(address.host, deadline)
            request = protocol.connect()
            request.headers["Authorization"] = f"Bearer {token()}"
            protocol.send_request(request)
            connection._write(deadline)
            while protocol.state is State.CONNECTING and protocol.handshake_exc is None:
                connection._read(deadline)
            if protocol.handshake_exc is not None:
                raise protocol.handshake_exc
        except TimeoutError:
            connection.close()
            raise
        except (WebSocketException, OSError) as error:
            connection.close()
            # Without their cause: it may hold the URL, or what the server answered, with the token in it.
            raise connect_error(address, error) from None
        except BaseException:
            connection.close()
            raise
        return connection

    def _begin_tls(self, host: str, deadline: float) -> None:
        self._socket.settimeout(_left(deadline))
        self._socket = tls.create_default_context().wrap_socket(self._socket, server_hostname=host)

    def send(self, frame: bytes, deadline: float) -> None:
        """Send a text message: its UTF-8.

        Raises:
            ConnectionClosed: the connection is gone. What was sent before may have arrived, or not.
            TimeoutError: not before the deadline.
        """
        if self._protocol.state is not State.OPEN:
            raise self._closed()
        self._protocol.send_text(frame)
        try:
            self._write(deadline)
        except TimeoutError:
            raise
        except OSError:
            raise self._closed() from None

    def receive(self, deadline: float) -> bytes:
        """Receive the next message.

        Raises:
            ConnectionClosed: the connection is gone, and all that had come in was received.
            TimeoutError: none came before the deadline.
        """
        while not self._messages:
            if self._protocol.state is not State.OPEN:
                raise self._closed()
            try:
                self._read(deadline)
            except TimeoutError:
                raise
            except OSError:
                raise self._closed() from None
        return self._messages.pop(0)

    def is_open(self) -> bool:
        """Return whether the connection is open, as far as received data tells. Does not wait."""
        try:
            while self._protocol.state is State.OPEN:
                self._read(None)
        except (BlockingIOError, tls.SSLWantReadError):
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Say goodbye, and do not wait for the answer."""
        with suppress(OSError, WebSocketException):
            if self._protocol.state is State.OPEN:
                self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
                self._write(None)
        with suppress(OSError):
            self._socket.close()

    def _read(self, deadline: float | None) -> None:
        """Take what comes in next, and answer pings. ``None``: raise ``BlockingIOError`` rather than wait."""
        self._socket.settimeout(0.0 if deadline is None else _left(deadline))
        if data := self._socket.recv(_READ_BYTES):
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        self._write(deadline)
        for event in self._protocol.events_received():
            # Else the server's answer to the handshake.
            if isinstance(event, Frame):
                self._take(event)

    def _take(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._parts.append(bytes(frame.data))
            if frame.fin:
                self._messages.append(b"".join(self._parts))
                self._parts.clear()

    def _write(self, deadline: float | None) -> None:
        for data in self._protocol.data_to_send():
            self._socket.settimeout(0.0 if deadline is None else _left(deadline))
            if data:
                self._socket.sendall(data)
            else:  # how the protocol says that nothing more will be sent
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_WR)

    def _closed(self) -> ConnectionClosed:
        received = self._protocol.close_rcvd
        if received is not None:
            return ConnectionClosed(received.code, received.reason)
        return ConnectionClosed(BROKEN, "the connection broke")


def _connect_tcp(address: Address, deadline: float) -> socket.socket:
    """Connect to the first of the host's addresses that accepts. Each has its share of the time."""
    found = address.resolve_blocking()
    problem = ""
    for position, (family, where) in enumerate(found):
        last = position == len(found) - 1
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # a family that this machine does not have
            problem = error.strerror or str(error)
            continue
        try:
            connection.settimeout(_left(deadline) / (len(found) - position))
            connection.connect(where)
            return connection
        except OSError as error:
            connection.close()
            if isinstance(error, TimeoutError) and last:
                raise
            problem = error.strerror or "no answer"
        except BaseException:
            connection.close()
            raise
    raise Unreachable(address.shown, f"cannot be reached: {problem.lower()}")


def _left(deadline: float) -> float:
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left
