"""The feed of what is published on this server: the source that reads its log over a websocket, as clients connect."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any

import msgspec
from msgspec import Struct

from dwsps_channels.client import ConnectError, Connection, ConnectionClosed, open_connection
from dwsps_channels.client.address import Address
from dwsps_channels.core.log_source import PAGE_BYTES, PAGE_MESSAGES, WAIT, SourceUnavailable
from dwsps_channels.core.page import Logged, Page, Position
from dwsps_channels.core.publication import Publication
from dwsps_channels.protocol import surrogates
from dwsps_channels.protocol.peer_messages import FeedAck, FeedEntry
from dwsps_channels.protocol.text import printable

logger = logging.getLogger("dwsps_channels.peering")

Sign = Callable[[], str | Awaitable[str]]


class ServerFeed:
    """See ``LogSource``. All reads go over one connection. It is made when somebody reads, and made again after a loss."""

    def __init__(self, url: str, sign: Sign) -> None:
        """Read from the server at ``url``. ``sign`` makes the credential for each connection to it.

        Raises:
            ValueError: the URL cannot be one.
        """
        self._address = Address.parse(url)
        self._sign = sign
        self._session: _FeedSession | None = None

    async def read(
        self, position: Position, *, messages: int = PAGE_MESSAGES, size: int = PAGE_BYTES
    ) -> Page:
        """See ``LogSource.read``."""
        if self._session is None or self._session.has_ended:
            self._session = _FeedSession(self._address, self._sign)
        return await self._session.read(position, messages, size)

    async def close(self) -> None:
        """See ``LogSource.close``."""
        if self._session is not None:
            await self._session.close()


class _FeedSession:
    """One connection to the server, and the requests on it."""

    def __init__(self, address: Address, sign: Sign) -> None:
        self._address = address
        self._connection: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._ids = count(1)
        # By id, the requests that somebody waits for.
        self._replies: dict[Any, asyncio.Future[Page]] = {}
        # What came since the last reply, and how many entries of it could not be decoded.
        self._entries: list[Logged] = []
        self._unreadable = 0
        self._has_replied = False
        # Tasks that withdraw requests.
        self._withdrawals: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._run(sign))

    @property
    def has_ended(self) -> bool:
        """True if the connection is lost, or could not be made."""
        return self._task.done()

    async def close(self) -> None:
        """Close the connection."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def read(self, position: Position, messages: int, size: int) -> Page:
        """Request a page, and wait for it as a ``LogSource`` does."""
        connection = await asyncio.shield(self._connection)
        id = next(self._ids)
        frame = {
            "type": "feed",
            "cursor": position.cursor,
            "at": position.at,
            "messages": messages,
            "size": size,
            "id": id,
        }
        reply: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
        self._replies[id] = reply
        try:
            await connection.send(_encode(frame))
            await asyncio.wait([reply], timeout=WAIT)
            if not reply.done():
                # Nothing follows yet: the server says how far its log goes by now.
                await connection.send(_encode(frame | {"wait": False}))
            return await reply
        except ConnectionClosed as closed:
            raise self._unavailable(printable(str(closed))) from None
        except asyncio.CancelledError:
            # Otherwise it would wait at the server for what is published next.
            task = asyncio.create_task(_withdraw(connection, frame))
            self._withdrawals.add(task)
            task.add_done_callback(self._withdrawals.discard)
            raise
        finally:
            # If this was cancelled, the reply is passed over.
            self._replies.pop(id, None)

    async def _run(self, sign: Sign) -> None:
        problem: Exception = SourceUnavailable("the connection was closed")
        try:
            async with open_connection(self._address, token=sign) as connection:
                self._connection.set_result(connection)
                async for frame in connection:
                    self._handle_frame(frame)
        except ConnectError as error:
            problem = self._unavailable(error.problem)
        except ConnectionClosed as closed:
            problem = self._unavailable(printable(str(closed)))
        except Exception as error:
            problem = error
        finally:
            _fail(self._connection, problem)
            for reply in self._replies.values():
                _fail(reply, problem)

    def _unavailable(self, problem: str) -> SourceUnavailable:
        return SourceUnavailable(f"no connection to the server at {self._address.shown}: {problem}")

    def _handle_frame(self, frame: bytes) -> None:
        match message := self._decoded(frame):
            case FeedEntry():
                self._entries.append(_logged(message))
            case FeedAck():
                self._handle_reply(message)
            case _Error(action="feed"):
                reply = self._replies.get(message.id)
                problem = f"the server refuses this worker the feed: {printable(message.reason)}"
                if reply is not None:
                    _fail(reply, SourceUnavailable(problem))

    def _handle_reply(self, ack: FeedAck) -> None:
        if not self._has_replied:
            self._has_replied = True
            logger.info("connected to the server at %s", self._address.shown)
        entries, self._entries = self._entries, []
        missed, self._unreadable = ack.missed + self._unreadable, 0
        reply = self._replies.get(ack.id)
        if reply is not None and not reply.done():
            reply.set_result(Page(entries, ack.cursor, ack.at, ack.end, missed, ack.restarted))

    def _decoded(self, frame: bytes) -> "_ServerFrame | None":
        try:
            return surrogates.decode(_decoder, frame)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            # RecursionError: nested as deeply as the server could just read.
            self._unreadable += frame.startswith(b'{"type":"entry"')
            logger.error(
                "the server sent a frame that this worker does not understand: %s",
                printable(str(error)),
            )
            return None


class _Error(Struct, tag_field="type", tag="error"):
    reason: str = ""
    action: str = ""
    id: Any = None


_ServerFrame = FeedEntry | FeedAck | _Error
_decoder: msgspec.json.Decoder[_ServerFrame] = msgspec.json.Decoder(_ServerFrame)
_encode = msgspec.json.Encoder().encode


async def _withdraw(connection: Connection, frame: dict[str, Any]) -> None:
    with suppress(ConnectionClosed):
        await connection.send(_encode(frame | {"messages": 0, "wait": False}))


def _fail(future: asyncio.Future[Any], problem: Exception) -> None:
    if not future.done():
        future.set_exception(problem)
        future.exception()  # perhaps nobody waits for it


def _logged(entry: FeedEntry) -> Logged:
    return Logged(
        entry.offset,
        entry.at,
        Publication(
            topic=entry.topic,
            message=entry.message,
            timestamp=entry.timestamp,
            origin=entry.origin,
            sequence=entry.sequence,
            publisher=entry.publisher,
        ),
    )
