"""The broker of a server of one process, whose log is in the project's database."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from dwsps_channels.broker.database.batch import Batch
from dwsps_channels.broker.database.table import LogTable
from dwsps_channels.broker.database.writer import Writer
from dwsps_channels.broker.sending.send_queue import Outcome, SendQueue, accept, refused
from dwsps_channels.core.broker import BrokerStats, Receiver, Repeated
from dwsps_channels.core.log import Log
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.timings import Timings

logger = logging.getLogger("dwsps_channels.broker")

# Large enough to make a commit cheap for each, small enough to leave no publisher waiting for long.
MAX_BATCH_BYTES: Final = 256 * 1024

# One is delivered while the next is committed.
MAX_BATCHES: Final = 2

# Seconds in which a batch has to be committed. A database that is locked says so earlier.
ANSWER_TIMEOUT: Final = 10.0

# Seconds that publishers wait for a database that broke during a commit to come back and say what became of that.
OUTCOME_TIMEOUT: Final = 5.0

# How long a stop waits for the outcomes of what was accepted, and then for the lease to be given back.
STOP_TIMEOUT: Final = 3.0
LEAVE_TIMEOUT: Final = 1.0

AWAY: Final = "the server cannot publish for now"
HELD: Final = "another process is this server: with the broker in the database there can be one"
UNKNOWN: Final = (
    "it is not known if the message was published: the database could not be reached meanwhile"
)


class DatabaseBroker:
    """Writes each publication to the log in the database, then delivers and acknowledges it.

    One thread writes, a batch at a time: see ``Writer``. Publications that arrive meanwhile make the next batch. If the
    database cannot be used they are refused, and nobody has them. If its connection breaks during a commit, the log tells
    what became of that once the database is back.

    Publications are refused while ``max_waiting`` of them wait to be written, or ``max_waiting_bytes``.
    """

    def __init__(
        self,
        table: LogTable,
        timings: Timings | None = None,
        *,
        max_waiting: int = 10_000,
        max_waiting_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self._table = table
        self._timings = timings or Timings()
        self.connected = False
        """True if this process writes the log, and the database takes it."""
        self._refusal = AWAY

        # Set by start.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._receiver: Receiver | None = None
        self._writer: Writer | None = None
        self._settled = asyncio.Event()  # it is known whether the log can be written
        self._ended = asyncio.Event()
        self._away_since = 0.0
        self._stopping = False

        self._queue = SendQueue(max_waiting, max_waiting_bytes)
        # Those without an outcome, each with its timer.
        self._batches: dict[Batch, asyncio.TimerHandle] = {}
        self._flushing = False
        self._epoch = ""
        self._offset = 0

        self._gaps = 0
        self._missed = 0
        self._epochs = 0

    def stats(self) -> BrokerStats:
        """See ``Broker.stats``."""
        waiting = len(self._queue) + sum(len(batch.waiting) for batch in self._batches)
        return BrokerStats(
            connected=self.connected,
            waiting=waiting,
            gaps=self._gaps,
            missed=self._missed,
            epochs=self._epochs,
        )

    async def start(self, receiver: Receiver) -> None:
        """Load the log and begin to write: see ``Broker.start``.

        Raises:
            RuntimeError: it was started before.
        """
        if self._receiver is not None:
            raise RuntimeError("a broker can be started once")
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._away_since = self._loop.time()
        self._writer = Writer(
            self._table,
            self,
            self._call_on_loop,
            lease_seconds=self._timings.LEASE_TIMEOUT,
            renew_interval=self._timings.LEASE_RENEW_INTERVAL,
        )
        self._writer.start()
        await self._settled.wait()

    def publish(self, publication: Publication, key: str = "") -> Outcome:
        """Append to the log: see ``Broker.publish``. Call it on the loop that ``start`` ran on."""
        if self._stopping or self._loop is None:
            return refused("the server is not running")
        if not self.connected:
            return refused(self._refusal)
        answer = self._queue.enqueue(publication, key)
        if not self._flushing:
            # At the end of this iteration of the loop: what is published within it makes one batch.
            self._flushing = True
            self._loop.call_soon(self._flush)
        return answer

    def _call_on_loop(self, function: Callable[..., None], *arguments: object) -> None:
        """Call ``function`` on the event loop. Any thread may do that."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(function, *arguments)

    def _flush(self) -> None:
        self._flushing = False
        if self._writer is None or self._loop is None:
            return
        while self._queue and len(self._batches) < MAX_BATCHES:
            batch = Batch(self._queue.next_batch(MAX_BATCH_BYTES))
            self._batches[batch] = self._loop.call_later(ANSWER_TIMEOUT, self._late, batch)
            self._writer.put(batch)

    async def stop(self) -> None:
        """Write what was accepted, then leave: see ``Broker.stop``."""
        if self._stopping or self._writer is None:
            return
        self._stopping = True
        outcomes = [each.accepted for each in self._queue]
        outcomes += [each.accepted for batch in self._batches for each in batch.waiting]
        if self.connected and (outcomes := [each for each in outcomes if not each.done()]):
            await asyncio.wait(outcomes, timeout=STOP_TIMEOUT)
        self._writer.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT):
                await self._ended.wait()
        self.connected = False
        self._queue.refuse("the server is stopping")
        for batch in list(self._batches):
            self._give_up(batch)
        self._settled.set()  # a start that is under way need not wait any longer

    # What the writer tells, on the event loop

    def begun(self, log: Log) -> None:
        """See ``Listener.begun``."""
        if self._epoch and log.epoch != self._epoch:
            self._epochs += 1
            logger.warning(
                "the log in the database has lost its end, or all of it: a new epoch begins; clients are told to load "
                "their state again"
            )
        elif self._epoch and (missed := log.offset - self._offset):
            self._gaps += 1
            self._missed += missed
            logger.warning(
                "missed %d messages, which another process has published meanwhile; %d missed since the start",
                missed,
                self._missed,
            )
        self._epoch, self._offset = log.epoch, log.offset
        if self._receiver is None or self._stopping:
            return
        try:
            self._receiver.begin(log)
        except Exception:
            logger.exception("the log could not be taken over")
        self.resumed()

    def resumed(self) -> None:
        """See ``Listener.resumed``."""
        if not self.connected and self._loop is not None and not self._stopping:
            self.connected, self._refusal = True, AWAY
            if self._settled.is_set():
                away = self._loop.time() - self._away_since
                logger.info("the log can be written again, after %.1f s", away)
        self._settled.set()

    def committed(self, batch: Batch) -> None:
        """See ``Listener.committed``."""
        self._forget(batch)
        for waiting, offset in batch.numbered():
            if not isinstance(offset, Repeated):
                self._deliver(waiting.publication, offset)
            accept(waiting.accepted, offset)
        self.resumed()  # if it was late
        self._flush()

    def _deliver(self, publication: Publication, offset: int) -> None:
        self._offset = offset
        if self._receiver is None:
            return
        try:
            self._receiver.receive(publication, offset)
        except Exception:
            logger.exception("message %d could not be delivered", offset)

    def refused(self, batch: Batch) -> None:
        """See ``Listener.refused``."""
        self._forget(batch)
        batch.refuse(self._refusal)
        self._flush()

    def unknown(self, batch: Batch) -> None:
        """See ``Listener.unknown``."""
        self._forget(batch)
        batch.refuse(UNKNOWN)
        self._flush()

    def lost(self, problem: str) -> None:
        """See ``Listener.lost``."""
        if self._leave_off(AWAY):
            logger.warning("the log in the database cannot be written: %s; trying on", problem)

    def held(self) -> None:
        """See ``Listener.held``."""
        if self._leave_off(HELD):
            logger.error(
                "%s, and has its lease; clients are sent there. For several processes configure a channels_redis layer "
                "(docs/how-to/deployment.md)",
                HELD,
            )
            if self._receiver is not None and not self._stopping:
                self._receiver.exclude()

    def ended(self) -> None:
        """See ``Listener.ended``."""
        self._ended.set()

    def _leave_off(self, refusal: str) -> bool:
        """Refuse what is published from now on; return whether that is news."""
        if self._settled.is_set() and not self.connected and self._refusal == refusal:
            return False
        if self.connected and self._loop is not None:
            self._away_since = self._loop.time()
            for batch in self._batches:
                # It broke during the commit. The writer finds out about it, but not for ever.
                self._loop.call_later(OUTCOME_TIMEOUT, self._give_up, batch)
        self.connected, self._refusal = False, refusal
        self._queue.refuse(refusal)
        self._settled.set()
        return True

    def _late(self, batch: Batch) -> None:
        self._give_up(batch)
        self.lost(f"it has not answered for {ANSWER_TIMEOUT:g} s")

    def _give_up(self, batch: Batch) -> None:
        """Answer the publishers, who have waited long enough. What becomes of the batch is still told."""
        batch.is_given_up = True
        batch.refuse(UNKNOWN)

    def _forget(self, batch: Batch) -> None:
        if (timer := self._batches.pop(batch, None)) is not None:
            timer.cancel()
