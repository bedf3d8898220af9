"""What is published on this server, as it comes to the worker: by a websocket, like any client."""

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
from dwsps_channels.peering.outbound.outbox import Outgoing
from dwsps_channels.protocol import surrogates
from dwsps_channels.protocol.messages import Reached, Tapped
from dwsps_channels.protocol.text import printable

logger = logging.getLogger("dwsps_channels.peering")

# The server is near, and whoever waits for it is waited for: it is tried often.
BACKOFF_BASE = 0.1
BACKOFF_CAP = 2.0

# Servers are restarted every day: only one that stays away for longer is worth a warning.
ROUTINE_GRACE = 5.0


class Start(Struct, frozen=True):
    """Where to begin: see ``Backlog.after``."""

    position: Mapping[str, int]
    since: float


class Cursor(Protocol):
    """How far the reader of a tap has got."""

    def start(self) -> Start:
        """Where to begin. Asked for each connection."""

    def begin(self, began: Mapping[str, int]) -> None:
        """The messages that follow begin with these numbers, of each origin that was not asked for."""

    def catch_up(self, position: Mapping[str, int]) -> None:
        """What the server still had up to ``position`` was given: what is missing will not come any more."""


class Tap:
    """The server's organic messages, in order, whatever happens to the connection. Iterate over ``messages`` once.

    ``cursor`` is asked for each connection what to begin with. So messages may come again, but none is left out that
    the server still keeps.
    """

    def __init__(
        self,
        url: str,
        sign: Callable[[], str | Awaitable[str]],
        cursor: Cursor,
    ) -> None:
        self.url = url
        self._sign = sign
        self._cursor = cursor
        self._backoff = Backoff(BACKOFF_BASE, BACKOFF_CAP, stable_after=1.0)
        self._connection: Connection | None = None
        self._anew = False
        # Since when, in seconds since the epoch, there is no connection; and what the log was told of it last.
        self._lost_at: float | None = None
        self._logged: tuple[int, str] | None = None
        self._reached: Mapping[str, int] = {}

    @property
    def connected(self) -> bool:
        """Whether the server is there."""
        return self._connection is not None

    @property
    def outage(self) -> tuple[float, str] | None:
        """Since when there is no connection, in seconds since the epoch, and why; ``None``: not for longer than a restart."""
        if self._lost_at is None or self._logged is None:
            return None
        return None if time() - self._lost_at < ROUTINE_GRACE else (self._lost_at, self._logged[1])

    def begin_anew(self) -> None:
        """Ask the server again for all from what ``start`` says.

        On a connection of its own: what is on its way is not given any more, as it would be ahead of what comes again.
        """
        self._anew = True
        if self._connection is not None:
            self._connection.abort("beginning anew")

    async def messages(self) -> AsyncIterator[Outgoing]:
        """Connect, and give what comes; connect again when that is lost. Never ends by itself."""
        while True:
            code: int | None = None
            opened = False
            try:
                async with open_connection(self.url, token=self._sign) as connection:
                    self._backoff.opened()
                    opened, self._anew = True, False
                    self._connection = connection
                    await self._request(connection)
                    async for frame in connection:
                        if self._anew:
                            break
                        if (message := self._understand(frame)) is not None:
                            yield message
            except ConnectError as error:
                # A server that is going away says 503: any other refusal is no routine.
                refused = isinstance(error, Refused) and error.status != 503
                self._log(error.problem, routine=not refused)
            except ConnectionClosed as closed:
                code = None if 4000 <= closed.code < 4100 else closed.code
                if not self._anew:
                    self._log(str(closed))
            except _Refused as refused:
                self._log(f"it does not let this worker tap: {refused}", routine=False)
            finally:
                self._connection = None
            if not (opened and self._anew):
                await asyncio.sleep(self._backoff.delay(code) or 0.0)

    async def _request(self, connection: Connection) -> None:
        start = self._cursor.start()
        await connection.send(
            _encode({"type": "tap", "position": dict(start.position), "since": start.since})
        )

    def _understand(self, frame: bytes) -> Outgoing | None:
        """The message that ``frame`` holds; ``None``: it is something else."""
        match said := _decoded(frame):
            case Tapped():
                return _outgoing(said)
            case Reached():
                self._reached = said.position
                self._cursor.begin(said.began)
            case _Ack(action="tap"):
                self._cursor.catch_up(self._reached)
                logger.info("connected to the server at %s", self.url)
                self._lost_at = self._logged = None
            case _Error(action="tap"):
                raise _Refused(printable(said.reason))
        return None

    def _log(self, problem: str, *, routine: bool = True) -> None:
        if self._lost_at is None:
            self._lost_at = time()
        brief = time() - self._lost_at < ROUTINE_GRACE
        level = logging.INFO if routine and brief else logging.WARNING
        if self._logged != (level, problem):
            self._logged = level, problem
            logger.log(
                level, "no connection to the server at %s: %s; trying again", self.url, problem
            )


class _Refused(Exception):
    """The server says that this is no worker: nothing will come on this connection."""


class _Forwarded(Struct, frozen=True, rename="camel", tag_field="type", tag="publish"):
    """What a peer is sent (docs/reference/protocol.md, "Peers")."""

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


_Said = Tapped | Reached | _Ack | _Error
_decoder: msgspec.json.Decoder[_Said] = msgspec.json.Decoder(_Said)
_encode = msgspec.json.Encoder().encode


def _decoded(frame: bytes) -> _Said | None:
    try:
        return surrogates.decode(_decoder, frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        # The last: nested as deeply as the server could just read.
        logger.error(
            "the server sent what this worker does not understand: %s", printable(str(error))
        )
        return None


def _outgoing(message: Tapped) -> Outgoing:
    forwarded = _Forwarded(
        topic=message.topic,
        message=message.message,
        timestamp=message.timestamp,
        from_peer_server=True,
        id=message.number,
        origin=message.origin,
    )
    return Outgoing(
        message.origin,
        message.number,
        message.at,
        message.topic,
        _encode(forwarded),
        message.publisher,
    )
