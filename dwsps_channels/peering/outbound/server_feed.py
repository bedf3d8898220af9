"""The feed of what is published on this server. It reaches the worker through a websocket, as any client's frames do."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from time import time
from typing import Protocol

import msgspec
from msgspec import Raw, Struct

from dwsps_channels.client import (
    Backoff,
    ConnectError,
    Connection,
    ConnectionClosed,
    Refused,
    open_connection,
)
from dwsps_channels.client.address import Address
from dwsps_channels.peering.outbound.message import ForwardedMessage
from dwsps_channels.protocol import surrogates
from dwsps_channels.protocol.peer_messages import FeedEntry, Reached
from dwsps_channels.protocol.text import printable

logger = logging.getLogger("dwsps_channels.peering")

# The server is near, and messages wait for it: it is tried often.
BACKOFF_BASE = 0.1
BACKOFF_CAP = 2.0

# A restart of the server is routine: only a longer outage is worth a warning.
ROUTINE_GRACE = 5.0


class FeedStart(Struct, frozen=True):
    """The place to start reading: see ``Tail.after``."""

    cursor: Mapping[str, int]
    since: float


class FeedReader(Protocol):
    """The reader of a feed: it knows how far it has read."""

    def start(self) -> FeedStart:
        """Return the place to start reading. Called for each connection."""

    def begin(self, began: Mapping[str, int]) -> None:
        """Note the first sequence of each origin that the request did not name: its messages begin there."""

    def catch_up(self, cursor: Mapping[str, int]) -> None:
        """Note that the server has sent what it still had up to ``cursor``: messages that are missing never come."""


class ServerFeed:
    """The messages published on this server, in order, across reconnects. Iterate over ``messages`` once.

    Each connection starts where ``reader`` says. So messages may repeat, but none that the server still keeps is left
    out.
    """

    def __init__(
        self,
        url: str,
        sign: Callable[[], str | Awaitable[str]],
        reader: FeedReader,
    ) -> None:
        """Read from the server at ``url``. ``sign`` makes the credential for each connection to it.

        Raises:
            ValueError: the URL cannot be one.
        """
        self._address = Address.parse(url)
        self._sign = sign
        self._reader = reader
        self._backoff = Backoff(BACKOFF_BASE, BACKOFF_CAP, stable_after=1.0)
        self._connection: Connection | None = None
        self._restarting = False
        # The time of the loss of the connection, in seconds since the epoch, and the level and text of the last log line.
        self._lost_at: float | None = None
        self._logged: tuple[int, str] | None = None
        self._reached: Mapping[str, int] = {}
        self._connections = 0

    @property
    def connected(self) -> bool:
        """Return whether there is a connection to the server."""
        return self._connection is not None

    @property
    def reconnects(self) -> int:
        """The connections that were made, after the first."""
        return max(0, self._connections - 1)

    @property
    def outage(self) -> tuple[float, str] | None:
        """The time at which the connection was lost, in seconds since the epoch, and why; ``None``: there is one, or was lately."""
        if self._lost_at is None or self._logged is None:
            return None
        return None if time() - self._lost_at < ROUTINE_GRACE else (self._lost_at, self._logged[1])

    def restart(self) -> None:
        """Read again from where ``start`` says.

        On a new connection: frames in flight are discarded, as they would overtake what is read again.
        """
        self._restarting = True
        if self._connection is not None:
            self._connection.abort("restarting the feed")

    async def messages(self) -> AsyncIterator[ForwardedMessage]:
        """Yield the messages; connect again whenever the connection is lost. Never ends by itself."""
        while True:
            code: int | None = None
            opened = False
            try:
                async with open_connection(self._address, token=self._sign) as connection:
                    self._backoff.opened()
                    self._connections += 1
                    opened, self._restarting = True, False
                    self._connection = connection
                    await self._request(connection)
                    async for frame in connection:
                        if self._restarting:
                            break
                        if (message := self._handle_frame(frame)) is not None:
                            yield message
            except ConnectError as error:
                # A server that shuts down answers 503. Any other refusal is worth a warning.
                refused = isinstance(error, Refused) and error.status != 503
                self._log(error.problem, routine=not refused)
            except ConnectionClosed as closed:
                code = None if 4000 <= closed.code < 4100 else closed.code
                if not self._restarting:
                    self._log(str(closed))
            except _FeedRefused as refused:
                self._log(f"it refuses this worker the feed: {refused}", routine=False)
            finally:
                self._connection = None
            if not (opened and self._restarting):
                await asyncio.sleep(self._backoff.delay(code) or 0.0)

    async def _request(self, connection: Connection) -> None:
        start = self._reader.start()
        await connection.send(
            _encode({"type": "feed", "cursor": dict(start.cursor), "since": start.since})
        )

    def _handle_frame(self, frame: bytes) -> ForwardedMessage | None:
        """Handle ``frame``; return the message that it holds, if any."""
        match message := _decoded(frame):
            case FeedEntry():
                return _outgoing(message)
            case Reached():
                self._reached = message.cursor
                self._reader.begin(message.began)
            case _Ack(action="feed"):
                self._reader.catch_up(self._reached)
                logger.info("connected to the server at %s", self._address.shown)
                self._lost_at = self._logged = None
            case _Error(action="feed"):
                raise _FeedRefused(printable(message.reason))
        return None

    def _log(self, problem: str, *, routine: bool = True) -> None:
        if self._lost_at is None:
            self._lost_at = time()
        brief = time() - self._lost_at < ROUTINE_GRACE
        level = logging.INFO if routine and brief else logging.WARNING
        if self._logged != (level, problem):
            self._logged = level, problem
            logger.log(
                level,
                "no connection to the server at %s: %s; trying again",
                self._address.shown,
                problem,
            )


class _FeedRefused(Exception):
    """The server does not take this connection for a worker's: nothing will come on it."""


class _Forwarded(Struct, frozen=True, rename="camel", tag_field="type", tag="publish"):
    """The frame for peers (docs/reference/protocol.md, "Peers")."""

    topic: str
    message: Raw
    timestamp: str
    from_peer_server: bool
    id: int
    origin: str


class _Ack(Struct, tag_field="type", tag="ack"):
    action: str = ""


class _Error(Struct, tag_field="type", tag="error"):
    reason: str = ""
    action: str = ""


_ServerFrame = FeedEntry | Reached | _Ack | _Error
_decoder: msgspec.json.Decoder[_ServerFrame] = msgspec.json.Decoder(_ServerFrame)
_encode = msgspec.json.Encoder().encode


def _decoded(frame: bytes) -> _ServerFrame | None:
    try:
        return surrogates.decode(_decoder, frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        # RecursionError: nested as deeply as the server could just read.
        logger.error(
            "the server sent a frame that this worker does not understand: %s",
            printable(str(error)),
        )
        return None


def _outgoing(message: FeedEntry) -> ForwardedMessage:
    forwarded = _Forwarded(
        topic=message.topic,
        message=message.message,
        timestamp=message.timestamp,
        from_peer_server=True,
        id=message.sequence,
        origin=message.origin,
    )
    return ForwardedMessage(
        message.origin,
        message.sequence,
        message.at,
        message.topic,
        _encode(forwarded),
        message.publisher,
    )
