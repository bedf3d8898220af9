"""What is published on this server, as it comes to the worker: by a websocket, like any client."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

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
from dwsps_channels.core.messages import Tapped
from dwsps_channels.core.text import printable
from dwsps_channels.peering.outbox import Outgoing

logger = logging.getLogger("dwsps_channels.peering")

# The server is near, and whoever waits for it is waited for: it is tried often.
BACKOFF_BASE = 0.1
BACKOFF_CAP = 2.0

# Servers are restarted every day: only one that stays away for longer is worth a warning.
ROUTINE_SECONDS = 5.0


class Start(Struct, frozen=True):
    """Where to begin: see ``Backlog.after``."""

    position: Mapping[str, int]
    since: float


class Tap:
    """The server's organic messages, in order, whatever happens to the connection. Iterate over ``messages`` once.

    ``start`` is asked for each connection what to begin with. So messages may come again, but none is left out that
    the server still keeps.
    """

    def __init__(
        self,
        url: str,
        sign: Callable[[], str | Awaitable[str]],
        start: Callable[[], Start],
    ) -> None:
        self.url = url
        self._sign = sign
        self._start = start
        self._backoff = Backoff(BACKOFF_BASE, BACKOFF_CAP, stable_after=1.0)
        self._connection: Connection | None = None
        self._anew = False
        # Since when there is no connection, and what the log was told of it last.
        self._lost_at: float | None = None
        self._logged: tuple[int, str] | None = None

    @property
    def connected(self) -> bool:
        """Whether the server is there."""
        return self._connection is not None

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
            opened = told = False
            try:
                async with open_connection(self.url, token=self._sign) as connection:
                    self._backoff.opened()
                    opened, self._anew = True, False
                    self._connection = connection
                    await self._request(connection)
                    async for frame in connection:
                        if self._anew:
                            break
                        if (message := _outgoing(frame)) is not None:
                            yield message
                        elif not told:
                            # Not before it has answered: it may as well refuse.
                            told = True
                            logger.info("connected to the server at %s", self.url)
                            self._lost_at = self._logged = None
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
        start = self._start()
        await connection.send(
            _encode({"type": "tap", "position": dict(start.position), "since": start.since})
        )

    def _log(self, problem: str, *, routine: bool = True) -> None:
        now = asyncio.get_running_loop().time()
        if self._lost_at is None:
            self._lost_at = now
        brief = now - self._lost_at < ROUTINE_SECONDS
        level = logging.INFO if routine and brief else logging.WARNING
        if self._logged != (level, problem):
            self._logged = level, problem
            logger.log(
                level, "no connection to the server at %s: %s; trying again", self.url, problem
            )


class _Refused(Exception):
    """The server says that this is no worker: nothing will come on this connection."""


class _Forwarded(Struct, frozen=True, rename="camel", tag_field="type", tag="publish"):
    """What a peer is sent (docs/protocol.md, "Peers")."""

    topic: str
    message: Raw
    timestamp: str
    from_peer_server: bool
    id: int
    origin: str


class _Other(Struct, tag_field="type", tag="ack"):
    """What comes besides."""


class _Error(Struct, tag_field="type", tag="error"):
    reason: str = ""
    action: str = ""


_decoder = msgspec.json.Decoder(Tapped | _Other | _Error)
_encode = msgspec.json.Encoder().encode


def _outgoing(frame: bytes) -> Outgoing | None:
    try:
        message = _decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        # The last: nested as deeply as the server could just read.
        logger.error(
            "the server sent what this worker does not understand: %s", printable(str(error))
        )
        return None
    if not isinstance(message, Tapped):
        if isinstance(message, _Error) and message.action == "tap":
            raise _Refused(printable(message.reason))
        return None
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
