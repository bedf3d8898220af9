"""The broker of a server whose processes share a log in Redis."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

from redis.exceptions import ResponseError

from dwsps_channels.broker.redis.batch import Batch
from dwsps_channels.broker.redis.connection import (
    IDENTIFY_INTERVAL,
    READ_BLOCK,
    READ_GRACE,
    Connection,
    is_refusal,
    problem_of,
)
from dwsps_channels.broker.redis.hosts import with_sentinels
from dwsps_channels.broker.redis.layout import VOTE_PAUSE, Entry, Layout, numbers, parse
from dwsps_channels.broker.redis.loading import Conversation, Search, load
from dwsps_channels.broker.redis.server import RedisServer
from dwsps_channels.broker.sending.send_queue import (
    Outcome,
    SendQueue,
    Waiting,
    accept,
    refuse,
    refused,
)
from dwsps_channels.broker.sending.tasks import end
from dwsps_channels.core.broker import BrokerStats, Receiver, Repeated
from dwsps_channels.core.log import Log
from dwsps_channels.core.publication import Publication
from dwsps_channels.logs.throttle import LogThrottle

logger = logging.getLogger("dwsps_channels.broker")

# Seconds between two signs of life. Redis does the housekeeping of the log with them.
BEAT_INTERVAL: Final = 1.0

# Entries that are read at once, each a batch.
READ_COUNT: Final = 16

# Seconds that publishers wait for Redis to come back and say what became of what was on its way when it went.
OUTCOME_TIMEOUT: Final = 5.0

# Seconds after which a batch is not sent again, as Redis may have forgotten that it was there. A process that was stopped,
# or slept, may come to that.
MAX_UNCERTAIN: Final = 60.0

# How long a stop waits for the outcomes of what was accepted, and for Redis to be told.
STOP_TIMEOUT: Final = 3.0
LEAVE_TIMEOUT: Final = 1.0

# Large enough to make a round trip cheap, small enough not to hold up Redis.
MAX_BATCH_BYTES: Final = 256 * 1024

# Seconds between two attempts to connect, the first and the longest.
RETRY_PAUSE: Final = 0.05
MAX_RETRY_PAUSE: Final = 1.0

# The id of no entry, before all others.
_NOWHERE: Final = b"0-1"

AWAY: Final = "the server cannot publish for now"
UNKNOWN: Final = (
    "it is not known if the message was published: the log could not be reached meanwhile"
)


class _LostPlace(Exception):
    """The log cannot be read on: the next entry, or the epoch, is not the expected one, or other processes ask.

    Join again: that verifies where this process is in the log.
    """


class RedisBroker:
    """A process of a server that shares a log, by two connections to Redis: one writes, one reads.

    Publications that arrive while others are on their way leave together, in one batch. One batch at a time is on its way;
    the answer has its offsets. This process reads its own publications from the log, like those of the other processes,
    and delivers and acknowledges them then. So all processes deliver in one order.

    A batch has a number. If the connection breaks before the answer came, it is sent again once Redis is back, and the
    script in Redis finds out if it has been there. What is not settled in time fails, with a text that says so.

    Each entry names the epoch, and the entry before it. If one does not follow the last that was read, or if Redis was
    away, this process verifies that what it has read is still there: see ``log.lua``. If not, a new epoch begins.

    ``make_pool`` makes a pool of asynchronous connections of redis-py, which is closed here. ``process_id`` is for the
    logs; it need not be unique. Publications are refused while ``max_waiting`` of them wait to be sent, or
    ``max_waiting_bytes``.
    """

    def __init__(
        self,
        make_pool: Callable[[], Any],
        layout: Layout,
        *,
        max_waiting: int = 10_000,
        max_waiting_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self._make_pool = make_pool
        self._layout = layout
        self._throttle = LogThrottle()

        self.connected = False
        """True if this process writes and reads the log."""

        # Set by start.
        self._receiver: Receiver | None = None
        self._pool: Any = None
        self._process = ""
        self._keeper: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()  # it is known whether Redis can be reached
        self._away_since = 0.0
        self._stopping = False

        # Where this process is in the log.
        self._epoch = ""
        self._last = b""
        self._offset = 0

        # Outgoing: those that wait, the batch that has no answer yet, and all that have not come back, by number.
        self._queue = SendQueue(max_waiting, max_waiting_bytes)
        self._wake = asyncio.Event()
        self._number = 0
        self._unanswered: Batch | None = None
        self._pending: dict[int, Batch] = {}
        # Publishers whose key was known, until the publication that had it was delivered here.
        self._repeated: list[tuple[int, Waiting]] = []
        self._giving_up: asyncio.TimerHandle | None = None

        self._gaps = 0
        self._missed = 0
        self._epochs = 0

    def stats(self) -> BrokerStats:
        """See ``Broker.stats``."""
        waiting = len(self._queue) + (len(self._unanswered) if self._unanswered else 0)
        return BrokerStats(
            connected=self.connected,
            waiting=waiting,
            gaps=self._gaps,
            missed=self._missed,
            epochs=self._epochs,
        )

    async def start(self, receiver: Receiver) -> None:
        """Load the log and begin to receive: see ``Broker.start``.

        Raises:
            RuntimeError: it was started before.
            Exception: what ``make_pool`` raises.
        """
        if self._receiver is not None:
            raise RuntimeError("a broker can be started once")
        self._pool = self._make_pool()
        self._receiver = receiver
        # Made here and not earlier: a process that was forked off a configured one is another.
        self._process = uuid4().hex
        self._away_since = asyncio.get_running_loop().time()
        self._keeper = asyncio.create_task(self._keep())
        await self._settled.wait()

    def publish(self, publication: Publication, key: str = "") -> Outcome:
        """Append to the log: see ``Broker.publish``. Call it on the loop that ``start`` ran on."""
        if self._stopping or self._receiver is None:
            return refused("the server is not running")
        if not self.connected:
            return refused(AWAY)
        answer = self._queue.enqueue(publication, key)
        self._wake.set()
        return answer

    async def stop(self) -> None:
        """Send what was accepted, then leave: see ``Broker.stop``."""
        if self._stopping or self._receiver is None:
            return
        self._stopping = True
        outcomes = [each.accepted for each in self._queue]
        outcomes += [answer for batch in self._pending.values() for answer in batch.outcomes]
        if self.connected and (outcomes := [each for each in outcomes if not each.done()]):
            await asyncio.wait(outcomes, timeout=STOP_TIMEOUT)
        await end(self._keeper)
        self._queue.refuse("the server is stopping")
        self._give_up()
        if self.connected:
            await self._leave()
        self.connected = False
        self._settled.set()  # a start that is under way need not wait any longer
        for pool in with_sentinels(self._pool):
            with suppress(Exception):
                await pool.disconnect()

    async def _leave(self) -> None:
        """Have the others not wait for this process if they vouch for another Redis."""
        connection = Connection(self._pool)
        with suppress(Exception):
            async with asyncio.timeout(LEAVE_TIMEOUT):
                await connection.open()
                await connection.call("HDEL", self._layout.state, f"p:{self._process}")
        with suppress(Exception):
            await connection.close()

    # The connections

    async def _keep(self) -> None:
        """Read and write, whatever happens to Redis."""
        loop = asyncio.get_running_loop()
        pause = RETRY_PAUSE
        while True:
            began = loop.time()
            longer = min(2 * pause, MAX_RETRY_PAUSE)
            try:
                await self._run()
            except* _LostPlace:
                # It reads on in a moment, but does not load the log again and again.
                pause = RETRY_PAUSE if loop.time() - began > MAX_RETRY_PAUSE else longer
            except* Exception as group:
                pause = RETRY_PAUSE if self.connected else longer
                self._lost(problem_of(group))
            await asyncio.sleep(pause)

    async def _run(self) -> None:
        writer, reader = Connection(self._pool), Connection(self._pool)
        try:
            await writer.open()
            await reader.open()
            server = await writer.server()
            await self._join(writer, reader, server.run)
            self._found(server)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(writer, server.run))
                tasks.create_task(self._read(reader))
        finally:
            for connection in (writer, reader):
                with suppress(Exception):
                    await connection.close()

    async def _join(self, writer: Connection, reader: Connection, run: str) -> None:
        """Verify what was read; load the log if this process does not know where it is, or cannot go on from there."""
        candidate = uuid4().hex[:16]
        while True:
            call = self._layout.join(self._process, run, candidate, self._epoch, self._last)
            what, epoch, offset, last = await writer.run(call)
            if what != b"wait":
                break
            await asyncio.sleep(VOTE_PAUSE)
        if what == b"begin":
            search = Search(self._layout.tail)
            loading = load(self._layout, epoch.decode(), int(offset), last, search)
            log = await _converse(reader, loading)
            self._begin(log, last)

    def _begin(self, log: Log, last: bytes) -> None:
        if self._epoch:
            if log.epoch != self._epoch:
                self._epochs += 1
                logger.warning(
                    "the log in Redis has lost its end, or all of it: a new epoch begins; clients are told to load "
                    "their state again"
                )
            else:
                missed = log.offset - self._offset
                self._gaps += 1
                self._missed += missed
                logger.warning(
                    "missed %d messages: Redis removed them before this process had read them; clients are told to "
                    "load their state again; %d missed since the start",
                    missed,
                    self._missed,
                )
        is_same = log.epoch == self._epoch
        self._epoch, self._last, self._offset = log.epoch, last, log.offset
        assert self._receiver is not None  # set before
        try:
            self._receiver.begin(log)
        except Exception:
            logger.exception("the log could not be taken over")
        for batch in list(self._pending.values()):
            # Those without an answer are sent again. Those with one do not come back: they were loaded, or lost.
            if batch.first:
                del self._pending[batch.number]
                if is_same:
                    batch.accept()
                else:
                    batch.refuse(UNKNOWN)
        self._accept_repeated()
        # The first with that key was in the end that is lost.
        refuse([waiting for _, waiting in self._repeated], UNKNOWN)
        self._repeated.clear()

    def _found(self, server: RedisServer) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
        if not self.connected:
            self.connected = True
            if self._settled.is_set():
                away = asyncio.get_running_loop().time() - self._away_since
                logger.info("Redis can be used again, after %.1f s", away)
            if server.evicts and self._throttle.is_due("evicts"):
                logger.warning(
                    "Redis may remove the log if memory runs out: its maxmemory-policy is %s; with volatile-lru, for "
                    "example, it removes only keys that expire",
                    server.evicts,
                )
        self._settled.set()

    def _lost(self, problem: str) -> None:
        if self._settled.is_set() and not self.connected:
            return  # known, and logged
        if self.connected:
            self._away_since = asyncio.get_running_loop().time()
        self.connected = False
        logger.warning("Redis cannot be used: %s; trying on", problem)
        self._queue.refuse(AWAY)
        if self._giving_up is None:
            loop = asyncio.get_running_loop()
            self._giving_up = loop.call_later(OUTCOME_TIMEOUT, self._give_up)
        self._settled.set()

    def _give_up(self) -> None:
        """Answer the publishers whose batch is on its way: no answer comes any more, or it does not come back."""
        # A Redis that was left may have lost what it took: it may come back without its data, or another in its place.
        # Publishers with a key may publish again: if the log still has the first one, that changes nothing.
        if self.connected:
            for batch in self._pending.values():
                if batch.first:
                    batch.accept()
            for offset, waiting in self._repeated:
                accept(waiting.accepted, Repeated(offset))
        refuse([waiting for _, waiting in self._repeated], UNKNOWN)
        self._repeated.clear()
        for batch in (*self._pending.values(), *filter(None, [self._unanswered])):
            batch.refuse(UNKNOWN if batch.is_uncertain or batch.first else AWAY)
        self._pending.clear()
        self._unanswered = None

    def _forget(self, batch: Batch) -> None:
        self._pending.pop(batch.number, None)
        if self._unanswered is batch:
            self._unanswered = None

    # Outgoing

    async def _write(self, connection: Connection, run: str) -> None:
        loop = asyncio.get_running_loop()
        beat_due = loop.time()
        identify_due = beat_due + IDENTIFY_INTERVAL
        while True:
            if self._unanswered is None and self._queue:
                self._number += 1
                batch = Batch(self._number, self._queue.next_batch(MAX_BATCH_BYTES))
                self._unanswered = self._pending[batch.number] = batch
            if self._unanswered is not None:
                await self._append(connection, self._unanswered)
            now = loop.time()
            if now >= identify_due:
                run = (await connection.server()).run
                identify_due = now + IDENTIFY_INTERVAL
            if now >= beat_due:
                (what,) = await connection.run(self._layout.beat(self._process, run, self._epoch))
                if what != b"ok":
                    raise _LostPlace
                beat_due = now + BEAT_INTERVAL
            if not self._queue and self._unanswered is None:
                self._wake.clear()
                timer = loop.call_at(beat_due, self._wake.set)
                try:
                    await self._wake.wait()
                finally:
                    timer.cancel()

    async def _append(self, connection: Connection, batch: Batch) -> None:
        if not batch.call:
            batch.epoch = self._epoch
            batch.call = self._layout.append(
                self._process,
                batch.number,
                secrets.randbits(63),
                batch.epoch,
                batch.publications,
                batch.keys,
            )
        loop = asyncio.get_running_loop()
        if not batch.is_uncertain:
            batch.sent_at = loop.time()
        elif loop.time() - batch.sent_at > MAX_UNCERTAIN:
            self._forget(batch)
            batch.refuse(UNKNOWN)
            return
        was_uncertain, batch.is_uncertain = batch.is_uncertain, True
        try:
            what, *outcome = await connection.run(batch.call)
        except ResponseError as error:
            if is_refusal(error) and not was_uncertain:
                self._forget(batch)
                batch.refuse(AWAY)
            raise
        batch.is_uncertain = was_uncertain
        if self._unanswered is not batch:
            return  # its publishers have waited too long
        if what == b"lost":
            self._not_appended(batch)
            return
        self._unanswered = None
        first, known, _ = outcome
        repeated = dict(_pairs(known))
        self._repeated += [(offset, batch.at(place)) for place, offset in repeated.items()]
        batch.first, batch.skipped = int(first), repeated.keys()
        if batch.number in self._pending and batch.first <= self._offset:
            # Nothing comes back: it was loaded, or has nothing new.
            del self._pending[batch.number]
            batch.accept()
        self._accept_repeated()

    def _not_appended(self, batch: Batch) -> None:
        if batch.epoch == self._epoch:
            # There is another epoch, or none. If this was the first attempt, nobody has the batch.
            if not batch.is_uncertain:
                batch.call = ()
            raise _LostPlace
        # It was meant for an epoch that is over, whose end may have been lost with it.
        self._forget(batch)
        batch.refuse(UNKNOWN)

    def _accept_repeated(self) -> None:
        """Answer the publishers whose key was known, once its publication was delivered here."""
        if self._repeated:
            for offset, waiting in self._repeated:
                if offset <= self._offset:
                    accept(waiting.accepted, Repeated(offset))
            self._repeated = [each for each in self._repeated if each[0] > self._offset]

    # Incoming

    async def _read(self, connection: Connection) -> None:
        command = "XREAD", "COUNT", READ_COUNT, "BLOCK", int(READ_BLOCK * 1000), "STREAMS"
        while True:
            reply = await connection.call(
                *(*command, self._layout.log, self._last), timeout=READ_BLOCK + READ_GRACE
            )
            if reply:
                ((_, entries),) = reply
                for entry in entries:
                    self._take(parse(entry))

    def _take(self, entry: Entry) -> None:
        if entry.epoch != self._epoch.encode() or entry.previous != self._last:
            raise _LostPlace
        process, _, number = entry.source.decode().partition(" ")
        batch = self._pending.pop(int(number), None) if process == self._process else None
        if batch is not None:
            self._last = entry.id
            for offset, waiting in batch.numbered(entry.first, entry.skipped):
                self._deliver(waiting.publication, offset)
                accept(waiting.accepted, offset)
        else:
            try:
                publications = self._layout.decode(entry)
            except ValueError as error:
                logger.warning(
                    "messages of process %s cannot be read: %s", process, problem_of(error)
                )
                self._last = _NOWHERE
                raise _LostPlace from error
            self._last = entry.id
            for offset, publication in publications:
                self._deliver(publication, offset)
        self._accept_repeated()

    def _deliver(self, publication: Publication, offset: int) -> None:
        self._offset = offset
        assert self._receiver is not None  # nothing is read before start
        try:
            self._receiver.receive(publication, offset)
        except Exception:
            logger.exception("message %d could not be delivered", offset)


async def _converse(connection: Connection, conversation: Conversation) -> Log:
    reply = None
    while True:
        try:
            command = conversation.send(reply)
        except StopIteration as done:
            log: Log = done.value
            return log
        reply = await connection.call(*command)


def _pairs(text: bytes) -> Iterator[tuple[int, int]]:
    """Read "place:offset,…"."""
    each = iter(numbers(text))
    return zip(each, each, strict=True)
