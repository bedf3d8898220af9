"""One websocket connection to a server: opened with care, kept alive by heartbeats, ended without a trace."""

import asyncio
import inspect
import logging
import os
import re
import socket
import ssl as tls
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import chain, repeat
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from websockets import exceptions as ws
from websockets.asyncio.client import ClientConnection, connect

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

Token = str | Callable[[], str | Awaitable[str]]
"""A token, or what gives one anew for each connection: a function, a coroutine function."""

logger = logging.getLogger("dwsps_channels.client")

# The largest frame that ASGI servers take by default has 16 MiB; a delivery has a context and a timestamp more.
MAX_FRAME_BYTES: Final = 17 * 1024 * 1024
CLOSE_SECONDS: Final = 2.0
TRY_SECONDS: Final = 3.0  # for each address of a host but the last

BROKEN: Final = 1006  # RFC 6455, section 7.4.1: never on the wire, but every library's word for it

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.1
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header can carry, and nothing that would end it


class Connection:
    """An open connection. Made by ``open_connection``, which also ends it.

    Keep reading it: the answers to its heartbeats come in with all the rest. While nothing is read because too
    much has come in, heartbeats wait.
    """

    def __init__(self, websocket: "_WebSocket") -> None:
        self._websocket = websocket
        self._latency: float | None = None
        self._farewell = ""  # why we ended it

    @property
    def latency(self) -> float | None:
        """Seconds that the last heartbeat took to there and back; ``None`` before the first."""
        return self._latency

    async def send(self, frame: str | bytes) -> None:
        """Send a text message; bytes are its UTF-8. Wait while the network is slower than we are.

        Cancelled, it may have been sent. What is sent later comes later, whoever waits first.

        Raises:
            ConnectionClosed: the connection is gone. What was sent before may have arrived, or not.
        """
        try:
            await self._websocket.send(frame, text=True)
        except ws.ConnectionClosed as closed:
            raise self._closed(closed) from None

    async def receive(self) -> bytes:
        """The next message, text or binary, as bytes.

        Raises:
            ConnectionClosed: the connection is gone, and all that had come in was received.
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
        """Say goodbye, and wait a moment for the answer. Returns when the connection is gone."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._websocket.close(code, reason)
        finally:
            self._websocket.transport.abort()
        await self._websocket.wait_closed()

    def abort(self, reason: str) -> None:
        """End it at once, without a word to the other side; who reads it gets 1006 and ``reason``."""
        self._farewell = reason
        self._websocket.transport.abort()

    async def keep_alive(self, interval: float, timeout: float) -> None:
        """Send a ping now and every ``interval`` seconds, and abort once nothing came in for ``timeout`` seconds after one.

        So a server that is gone without a word is noticed within the sum of the two.
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
                    if not websocket.transport.is_reading():
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
        if self._farewell:
            return ConnectionClosed(BROKEN, self._farewell)
        if rcvd is not None and (sent is None or closed.rcvd_then_sent):
            return ConnectionClosed(rcvd.code, rcvd.reason)
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

    Neither a proxy nor a redirect is followed, and link-local addresses are not connected to.

    Args:
        token: sent as ``Authorization: Bearer …``; a callable is asked for it first.
        headers: more of them for the handshake.
        ssl: how to trust the server, for ``wss``; by default as the system does.
        open_timeout: seconds for all of it: token, name, TCP, TLS, handshake.
        heartbeat: seconds between two pings; ``heartbeat_timeout`` is how long an answer may take.
        max_size: bytes of the largest message taken; a larger one closes the connection with 1009.

    Raises:
        ConnectError: no connection came about; its subclasses say why.
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
    """A copy of what is to be sent with the handshake.

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
        headers["Authorization"] = f"Bearer {await _ask(token, address)}"
    options: dict[str, Any] = {"ssl": ssl} if address.secure and ssl is not None else {}
    connector = _Connect(
        address.uri,
        additional_headers=headers,
        compression=None,
        proxy=None,
        open_timeout=None,
        close_timeout=CLOSE_SECONDS,
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


async def _ask(token: Token, address: Address) -> str:
    if callable(token):
        try:
            answer = token()
            value: object = await answer if inspect.isawaitable(answer) else answer
        except Exception as error:
            raise NoToken(
                address.shown, f"no token: {type(error).__name__} from who was asked for it"
            ) from error
    else:
        value = token
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise NoToken(address.shown, "the token is not a text of visible ASCII characters")
    return value


async def _connect_tcp(address: Address) -> socket.socket:
    """A connection to the first of the host's addresses that takes one."""
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
            async with asyncio.timeout(None if last else TRY_SECONDS):
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
    """What an attempt to connect that raised ``error`` came to; raises ``error`` itself if it says nothing of the server."""
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
            return NotWebSocket(shown, "what is there does not speak websocket")
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
    """Knows when it last heard of the server."""

    heard_at: float = 0.0
    """The loop's time when bytes last came in, of any kind."""

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        super().data_received(data)


class _Connect(connect):
    """Follows no redirect: it would hand the token to whoever the server names."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class WithoutDebug(logging.LoggerAdapter[logging.Logger]):
    """At the debug level websockets logs the handshake, with the token, and every message."""

    def isEnabledFor(self, level: int) -> bool:
        return level > logging.DEBUG and super().isEnabledFor(level)
