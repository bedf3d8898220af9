"""One websocket connection to a server: opening, heartbeats and closing."""

import asyncio
import logging
import os
import re
import socket
import ssl as tls
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import chain, repeat
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from websockets import exceptions as ws
from websockets.asyncio.client import ClientConnection, connect
from websockets.frames import CTRL_OPCODES, Frame

from dwsps_channels.client.address import Address
from dwsps_channels.client.errors import (
    ConnectError,
    ConnectionClosed,
    NoToken,
    NotWebSocket,
    OpenTimeout,
    Redirected,
    Refused,
    TLSFailed,
    Unreachable,
)
from dwsps_channels.client.text_source import TextSource, ask
from dwsps_channels.core.rate_limit import TokenBucket

Token = TextSource
"""A token, or a function or coroutine function that gives one for each connection."""

logger = logging.getLogger("dwsps_channels.client")

# The largest frame that ASGI servers take by default has 16 MiB; a delivery has a context and a timestamp more.
MAX_FRAME_BYTES: Final = 17 * 1024 * 1024
CLOSE_TIMEOUT: Final = 2.0
TRY_TIMEOUT: Final = 3.0  # for each address of a host but the last

# What is read at a time: 512 of the smallest frames; of large ones more. And for how long, before others get their turn.
SLICE_BYTES: Final = 1024
LARGEST_SLICE_BYTES: Final = 16 * 1024
FEW_FRAMES: Final = 16
TURN_INTERVAL: Final = 0.005

# Pings and pongs that a server may send: one every 20 seconds is usual.
CONTROL_RATE: Final = 100.0
CONTROL_BURST: Final = 1000

BROKEN: Final = 1006  # RFC 6455, section 7.4.1: never on the wire, but every library's word for it

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.1
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header can carry, and nothing that would end it


class Connection:
    """An open connection. Made by ``open_connection``, which also ends it.

    Keep reading it, because the answers to its heartbeats arrive among the messages. If too much is unread, reading from
    the network pauses, and heartbeats wait.
    """

    def __init__(self, websocket: "_WebSocket") -> None:
        self._websocket = websocket
        self._latency: float | None = None

    @property
    def latency(self) -> float | None:
        """The round trip of the last heartbeat, in seconds; ``None`` before the first."""
        return self._latency

    async def send(self, frame: str | bytes) -> None:
        """Send a text message, a string or its UTF-8. Wait while the network cannot keep up.

        If it is cancelled, the message may have been sent. Messages leave in the order of the calls.

        Raises:
            ConnectionClosed: the connection is gone. Messages sent before may have arrived, or not.
        """
        try:
            await self._websocket.send(frame, text=True)
        except ws.ConnectionClosed as closed:
            raise self._closed(closed) from None

    async def receive(self) -> bytes:
        """Receive the next message, text or binary, as bytes.

        Raises:
            ConnectionClosed: the connection is gone, and all messages before its end were received.
        """
        try:
            return await self._websocket.recv(decode=False)
        except ws.ConnectionClosed as closed:
            raise self._closed(closed) from None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Every message; ends by raising ``ConnectionClosed``, whoever closed it."""
        while True:
            yield await self.receive()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame, and wait a moment for the answer. Return when the connection is gone."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._websocket.close(code, reason)
        finally:
            self._websocket.transport.abort()
        await self._websocket.wait_closed()

    def abort(self, reason: str) -> None:
        """End it at once, without a close frame. Its reader gets ``ConnectionClosed`` with 1006 and ``reason``."""
        self._websocket.cut(reason)

    async def keep_alive(self, interval: float, timeout: float) -> None:
        """Send a ping now and every ``interval`` seconds, and abort once nothing came in for ``timeout`` seconds after one.

        So a dead server is noticed within the sum of the two.
        """
        websocket, loop = self._websocket, asyncio.get_running_loop()
        for pause in chain([0.0], repeat(interval)):
            await asyncio.sleep(pause)
            quiet_since = loop.time()
            ping = asyncio.create_task(self._ping())
            try:
                while not ping.done():
                    # The pong queues behind what the server has to say: any of that is a sign of life, too.
                    quiet_since = max(quiet_since, websocket.heard_at)
                    if websocket.is_behind:
                        quiet_since = loop.time()  # it is not the server that is slow
                    left = quiet_since + timeout - loop.time()
                    if left > 0:
                        await asyncio.wait([ping], timeout=left)
                        continue
                    # A loop that was held up may not have read yet what came in meanwhile.
                    await asyncio.sleep(0.05)
                    if websocket.heard_at <= quiet_since and not ping.done():
                        return self.abort(f"no answer to a heartbeat within {timeout:g} s")
            finally:
                ping.cancel()

    async def _ping(self) -> None:
        with suppress(ws.ConnectionClosed):
            # To wait for room in a full send buffer is part of it: a dead server empties none.
            self._latency = await (await self._websocket.ping())

    def _closed(self, closed: ws.ConnectionClosed) -> ConnectionClosed:
        rcvd, sent = closed.rcvd, closed.sent
        if self._websocket.cut_reason:
            return ConnectionClosed(BROKEN, self._websocket.cut_reason)
        if rcvd is not None and (sent is None or closed.rcvd_then_sent):
            return ConnectionClosed(rcvd.code, rcvd.reason, by_server=True)
        if (
            sent is not None
        ):  # we closed it: asked to, or because what came was against the protocol
            return ConnectionClosed(sent.code, sent.reason)
        return ConnectionClosed(BROKEN, "the connection broke")


@asynccontextmanager
async def open_connection(
    url: str | Address,
    *,
    token: Token | None = None,
    headers: Mapping[str, str] | None = None,
    ssl: tls.SSLContext | None = None,
    open_timeout: float = 10.0,
    heartbeat: float = 20.0,
    heartbeat_timeout: float = 20.0,
    max_size: int = MAX_FRAME_BYTES,
) -> AsyncIterator[Connection]:
    """Open a connection, and close it at the end of the block.

    No proxy of the environment is used, no redirect is followed, and link-local addresses are refused.

    Args:
        token: sent as ``Authorization: Bearer …``; a callable is called for it.
        headers: additional headers for the handshake.
        ssl: the ``SSLContext`` for ``wss``; by default the system's certificates are trusted.
        open_timeout: seconds for everything until the end of the handshake: token, host name, TCP, TLS.
        heartbeat: seconds between two pings; ``heartbeat_timeout`` is how long an answer may take.
        max_size: bytes of the largest message taken; a larger one closes the connection with 1009.

    Raises:
        ConnectError: there is no connection; its subclasses say why.
        ValueError: the URL or a header cannot be one.
    """
    address = url if isinstance(url, Address) else Address.parse(url)
    try:
        async with asyncio.timeout(open_timeout):
            websocket = await _open(address, token, checked_headers(headers), ssl, max_size)
    except TimeoutError:
        raise OpenTimeout(address.shown, open_timeout) from None
    connection = Connection(websocket)
    heart = asyncio.create_task(connection.keep_alive(heartbeat, heartbeat_timeout))
    try:
        yield connection
    finally:
        heart.cancel()
        try:
            await connection.close()
        finally:
            # Its end is waited for: nothing is left running.
            await asyncio.wait([heart])


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return a copy of the headers for the handshake.

    Raises:
        ValueError: a name or a value would break the request. The text repeats neither.
    """
    for name, value in (headers or {}).items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError("a header has a name or a value that cannot be sent")
    return dict(headers or {})


async def _open(
    address: Address,
    token: Token | None,
    headers: dict[str, str],
    ssl: tls.SSLContext | None,
    max_size: int,
) -> "_WebSocket":
    if token is not None:
        text = await ask_token(token, address)
        if not text:
            raise NoToken(address.shown, "the token is empty")
        headers["Authorization"] = f"Bearer {text}"
    options: dict[str, Any] = {"ssl": ssl} if address.secure and ssl is not None else {}
    connector = _Connect(
        address.uri,
        additional_headers=headers,
        compression=None,
        proxy=None,
        open_timeout=None,
        close_timeout=CLOSE_TIMEOUT,
        ping_interval=None,  # keep_alive does it, and knows a busy server from a dead one
        max_size=max_size,
        logger=WithoutDebug(logger),
        create_connection=_WebSocket,
        sock=await _connect_tcp(address),
        **options,
    )
    try:
        websocket = await connector
    except (ws.WebSocketException, OSError) as error:
        if isinstance(error, TimeoutError):
            raise  # the caller's, or the network's own: both say the same
        # Without their cause: it may hold the URL, or what the server answered, with the token in it.
        raise connect_error(address, error) from None
    assert isinstance(websocket, _WebSocket)
    return websocket


async def ask_token(token: Token, address: Address) -> str:
    """Return the token for a connection to ``address``. It may be empty.

    Raises:
        NoToken: the token function raised, or the token is none that a header can carry.
    """
    try:
        value = await ask(token)
    except Exception as error:
        problem = f"no token: {type(error).__name__} from the token function"
        raise NoToken(address.shown, problem) from error
    if value != "" and (not isinstance(value, str) or not _TOKEN.fullmatch(value)):
        raise NoToken(address.shown, "the token is not a text of visible ASCII characters")
    return value


async def _connect_tcp(address: Address) -> socket.socket:
    """Connect to the first of the host's addresses that accepts."""
    loop = asyncio.get_running_loop()
    found = await address.resolve()
    problem = ""
    for position, (family, where) in enumerate(found):
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # a family that this machine does not have
            problem = error.strerror or str(error)
            continue
        try:
            connection.setblocking(False)
            # One that never answers is not to eat up the time of the others; the last one has what is left.
            last = position == len(found) - 1
            async with asyncio.timeout(None if last else TRY_TIMEOUT):
                await loop.sock_connect(connection, where)
            return connection
        except OSError as error:
            connection.close()
            if isinstance(error, TimeoutError) and position == len(found) - 1:
                raise
            # asyncio says "connect call failed" of everything: the system's own words tell more.
            problem = os.strerror(error.errno) if error.errno else "no answer"
        except BaseException:
            connection.close()
            raise
    raise Unreachable(address.shown, f"cannot be reached: {problem.lower()}")


def connect_error(address: Address, error: Exception) -> ConnectError:
    """Convert the ``error`` of an attempt to connect; raise ``error`` itself if it says nothing about the server."""
    shown = address.shown
    match error:
        case ws.InvalidStatus(response=response):
            status = response.status_code
            if 300 <= status < 400:
                return Redirected(shown, status, _without_query(response.headers.get("Location")))
            if 200 <= status < 300:
                return NotWebSocket(shown, f"HTTP {status}: there is a web page, and no websocket")
            return Refused(shown, status)
        case ws.InvalidHandshake() if isinstance(error.__cause__, (EOFError, OSError)):
            return Unreachable(shown, "the connection was closed during the handshake")
        case ws.WebSocketException():
            return NotWebSocket(shown, "the answer is not that of a websocket server")
        case tls.SSLCertVerificationError(verify_message=message):
            return TLSFailed(shown, f"the certificate is not trusted: {message}")
        case tls.SSLError(reason=reason):
            words = (reason or "the handshake failed").replace("_", " ").lower()
            return TLSFailed(shown, f"no TLS connection: {words}")
        case OSError() if address.secure:  # later ones come as InvalidHandshake
            return TLSFailed(shown, "no TLS connection: the other side ended it")
        case OSError(strerror=words):
            return Unreachable(
                shown, f"the connection broke: {(words or 'no reason given').lower()}"
            )
    raise error


def _without_query(location: str | None) -> str:
    try:
        parts = urlsplit(location or "")
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=host, query="", fragment=""))
    except ValueError:
        return ""


class _WebSocket(ClientConnection):
    """Handles what comes in bit by bit, so that a server that floods it keeps nobody else from their turn.

    asyncio gives up to 256 KiB at once, and uvloop some MiB: handled at once they would hold up the loop for seconds.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.heard_at = 0.0
        """The loop's time when bytes last came in, of any kind."""
        self.cut_reason = ""
        """Why this side cut it off; empty: it did not."""
        self._unread = bytearray()  # came in, and has to wait for its turn
        self._slice = SLICE_BYTES
        self._frames = 0  # in the slice that is read
        self._turn: asyncio.Handle | None = None
        self._controls = TokenBucket(CONTROL_RATE, CONTROL_BURST, monotonic)

    @property
    def is_behind(self) -> bool:
        """True if reading is paused until received messages are handled."""
        return bool(self._unread) or self.recv_messages.paused

    def cut(self, reason: str) -> None:
        """End it at once, without a word to the other side."""
        self.cut_reason = self.cut_reason or reason
        self._unread.clear()
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # The queue of messages is not alone in pausing any more.
        self.recv_messages.pause = self.recv_messages.resume = self._adjust

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        if len(data) <= SLICE_BYTES and not self._unread:
            super().data_received(data)
            return
        self._unread += data
        if self._turn is None:
            self._take_turn()

    def process_event(self, event: Any) -> None:
        self._frames += 1
        if isinstance(event, Frame) and event.opcode in CTRL_OPCODES and not self._controls.take():
            # Each is answered: such a server would keep this process busy with nothing else.
            self.cut(f"more than {CONTROL_RATE:g} pings a second")
        super().process_event(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unread.clear()  # broken, or cut off: else its end is not read before all else was
        super().connection_lost(exc)

    def _take_turn(self) -> None:
        self._turn = None
        ends_at = monotonic() + TURN_INTERVAL  # the loop's own time may stand still within a turn
        while self._unread and not self.recv_messages.paused:
            part = bytes(self._unread[: self._slice])
            del self._unread[: self._slice]
            self._frames = 0
            super().data_received(part)
            is_calm = self._frames <= FEW_FRAMES
            self._slice = min(2 * self._slice, LARGEST_SLICE_BYTES) if is_calm else SLICE_BYTES
            if monotonic() >= ends_at:
                break
        self._adjust()

    def _adjust(self) -> None:
        """Read on, or pause until what came in is handled; see to the next turn."""
        if self.transport.is_closing():
            return
        if self._unread and not self.recv_messages.paused and self._turn is None:
            self._turn = self.loop.call_soon(self._take_turn)
        if self.is_behind:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()


class _Connect(connect):
    """Follows no redirect: it would hand the token to whoever the server names."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class WithoutDebug(logging.LoggerAdapter[logging.Logger]):
    """At the debug level websockets logs the handshake, with the token, and every message."""

    def isEnabledFor(self, level: int) -> bool:
        return level > logging.DEBUG and super().isEnabledFor(level)
