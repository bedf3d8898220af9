"""The log in Redis, as the worker reads it."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

from msgspec.structs import replace
from redis.exceptions import RedisError

from dwsps_channels.broker.redis.connection import (
    IDENTIFY_INTERVAL,
    READ_BLOCK,
    READ_GRACE,
    Connection,
    problem_of,
)
from dwsps_channels.broker.redis.hosts import with_sentinels
from dwsps_channels.broker.redis.layout import VOTE_PAUSE, Entry, Layout, detached, parse
from dwsps_channels.broker.sending.tasks import end
from dwsps_channels.core.log import offset_of
from dwsps_channels.core.log_source import PAGE_BYTES, PAGE_MESSAGES, WAIT, SourceUnavailable
from dwsps_channels.core.page import OVERLAP, Logged, Page, Position
from dwsps_channels.core.publication import Publication
from dwsps_channels.logs.throttle import LogThrottle

logger = logging.getLogger("dwsps_channels.broker")

# Bytes that are read at once, however many a page may have: Redis does nothing else meanwhile.
_MAX_READ: Final = 256 * 1024

# Places whose entries are remembered: of a worker with many peers, each where it is.
_MAX_PLACES: Final = 4096


class RedisSource:
    """Reads the log of a ``RedisBroker`` by two connections: one reads pages, one waits. See ``LogSource``.

    It needs no process of the server. ``make_pool`` makes a pool of asynchronous connections of redis-py, which is closed
    here.
    """

    # A source vouches for nothing when Redis was restarted or replaced: see ``vote`` in log.lua. What was acknowledged was
    # read by a process of the server, which says whether it is still there. If a source has read more than any process, it
    # has forwarded what nobody was promised: no reason for all clients to load their state again. The source notices by
    # the id of the entry that its place is now in another entry.

    def __init__(self, make_pool: Callable[[], Any], layout: Layout) -> None:
        self._make_pool = make_pool
        self._layout = layout
        self._throttle = LogThrottle()
        self._pool: Any = None

        # Reading pages, one at a time.
        self._lock = asyncio.Lock()
        self._reader: Connection | None = None
        self._run = ""
        """The Redis that ``_reader`` leads to."""
        self._identify_due = 0.0
        self._failed_at = 0.0
        self._problem = ""
        # By cursor the id of the entry that it is in.
        self._places: OrderedDict[str, bytes] = OrderedDict()

        # Waiting for what follows the entry ``_last``, the end of the log when the last page was read.
        self._last = b""
        self._waiter: Connection | None = None
        self._waiting: asyncio.Task[str] | None = None

    async def read(
        self, position: Position, *, messages: int = PAGE_MESSAGES, size: int = PAGE_BYTES
    ) -> Page:
        """Return what follows ``position``: see ``LogSource.read``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + WAIT
        restarted = False
        while True:
            page, last = await self._page(position, messages, size)
            restarted = restarted or page.restarted
            left = deadline - loop.time()
            if page.entries or page.missed or left <= 0:
                return replace(page, restarted=restarted)
            if last:
                await self._follows(last, left)
            position = page.position

    async def close(self) -> None:
        """Close the connections."""
        await self._drop()
        if self._pool is not None:
            for pool in with_sentinels(self._pool):
                with suppress(Exception):
                    await pool.disconnect()

    # Reading

    async def _page(self, position: Position, messages: int, size: int) -> tuple[Page, bytes]:
        """Return a page, which may be empty; and the id of the last entry of the log if it is the end of the log."""
        asked_at = asyncio.get_running_loop().time()
        async with self._lock:
            if self._failed_at > asked_at:
                raise SourceUnavailable(self._problem)  # by the attempt that this one waited for
            try:
                reply = await self._ask(position, messages, min(size, _MAX_READ))
            except (OSError, RedisError) as error:
                await self._drop()
                self._problem = f"Redis cannot be used: {problem_of(error)}"
                self._failed_at = asyncio.get_running_loop().time()
                raise SourceUnavailable(self._problem) from error
            except BaseException:  # cancelled: a reply may be on its way
                await self._drop()
                raise
        self._last = last = reply[3]
        page = self._made(reply, messages, size)
        return page, last if page.position.cursor.endswith(f":{page.end}") else b""

    async def _ask(self, position: Position, messages: int, size: int) -> Any:
        """Return the reply of ``read`` in log.lua."""
        loop = asyncio.get_running_loop()
        epoch = position.cursor.partition(":")[0]
        after = offset_of(position.cursor, epoch)
        since = int((position.at - OVERLAP) * 1000)
        entry = self._places.get(position.cursor, b"")
        if self._reader is None:
            self._pool = self._pool or self._make_pool()
            self._reader = Connection(self._pool)
            await self._reader.open()
            self._identify_due = 0.0
        while True:
            if loop.time() >= self._identify_due:
                self._run = (await self._reader.server()).run
                self._identify_due = loop.time() + IDENTIFY_INTERVAL
            place = ("", 0) if after is None else (epoch, after)
            call = self._layout.read(self._run, *place, entry, since, messages, size)
            reply = await self._reader.run(call)
            if reply[0] != b"lost":
                return reply
            self._run = (await self._reader.server()).run
            await self._join(self._reader)

    async def _join(self, connection: Connection) -> None:
        """Wait until the processes of the server have vouched for the log, or begin another epoch. If Redis has no log, begin it."""
        candidate = uuid4().hex[:16]
        call = self._layout.join("", self._run, candidate, "", b"0-0")
        while True:
            what = (await connection.run(call))[0]
            if what != b"wait":
                return
            await asyncio.sleep(VOTE_PAUSE)

    def _made(self, reply: Any, messages: int, size: int) -> Page:
        _, epoch, offset, last, now, is_unknown, after, replies, is_end = reply
        place, end_offset, missed, at, id = int(after), int(offset), 0, 0, b""
        entries: list[Logged] = []
        room, is_full = size, False
        for entry in map(parse, replies):
            for its_offset, publication in self._numbered(entry):
                if its_offset <= place:
                    continue  # the first entry may have begun before
                if publication is None:
                    missed += 1
                elif not publication.from_peer_server:
                    its_size = len(publication.topic) + len(publication.message)
                    is_full = bool(entries) and (len(entries) >= messages or its_size > room)
                    if is_full:
                        break
                    room -= its_size
                    if entry.length > 1:
                        publication = detached(publication)  # the rest may be for other pages
                    entries.append(Logged(its_offset, entry.at / 1000, publication))
                missed += its_offset - place - 1  # offsets have no holes, except what is gone
                place, at, id = its_offset, entry.at, entry.id
            if is_full:
                break
        if is_end and not is_full:
            missed += end_offset - place
            place, at, id = end_offset, int(now), last
        cursor = f"{epoch.decode()}:{place}"
        self._remember(cursor, id)
        return Page(entries, cursor, at / 1000, end_offset, missed, bool(is_unknown))

    def _numbered(self, entry: Entry) -> Iterable[tuple[int, Publication | None]]:
        """Return the publications of an entry with their offsets; ``None`` for each if they cannot be read."""
        try:
            return self._layout.decode(entry)
        except ValueError as error:
            if self._throttle.is_due():
                source = entry.source.decode().partition(" ")[0]
                logger.warning(
                    "messages of process %s cannot be read, and are not forwarded: %s",
                    source,
                    problem_of(error),
                )
            return ((offset, None) for offset in range(entry.first, entry.first + entry.length))

    def _remember(self, cursor: str, id: bytes) -> None:
        self._places[cursor] = id
        self._places.move_to_end(cursor)
        if len(self._places) > _MAX_PLACES:
            self._places.popitem(last=False)

    async def _drop(self) -> None:
        """Close both connections, which are to lead to the same Redis."""
        await end(self._waiting)
        # Taken out first: another read may begin while they are closed.
        connections = self._reader, self._waiter
        self._reader = self._waiter = None
        for connection in connections:
            if connection is not None:
                with suppress(Exception):
                    await connection.close()

    # Waiting

    async def _follows(self, last: bytes, timeout: float) -> None:
        """Wait for an entry after ``last``, for ``timeout`` seconds at the most."""
        if last != self._last:
            return  # another read has seen one
        if self._waiting is None or self._waiting.done():
            self._waiting = asyncio.create_task(self._wait())
        # The task goes on if this is cancelled: others may wait, and the connection stays good.
        done, _ = await asyncio.wait([self._waiting], timeout=timeout)
        for task in done:
            if not task.cancelled() and (problem := task.result()):
                raise SourceUnavailable(problem)

    async def _wait(self) -> str:
        """Wait for the next entry, ``READ_BLOCK`` seconds at the most. Return what is wrong; empty: nothing."""
        block = int(READ_BLOCK * 1000)
        command = "XREAD", "COUNT", 1, "BLOCK", block, "STREAMS", self._layout.log, self._last
        waiter = self._waiter
        try:
            if waiter is None:
                waiter = self._waiter = Connection(self._pool)
                await waiter.open()
            await waiter.call(*command, timeout=READ_BLOCK + READ_GRACE)
        except (OSError, RedisError) as error:
            self._waiter = None
            if waiter is not None:
                with suppress(Exception):
                    await waiter.close()
            return f"Redis cannot be used: {problem_of(error)}"
        return ""
