"""The thread that writes the log."""

import atexit
import logging
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic, time
from typing import Any, Final, Protocol

from django.db import DEFAULT_DB_ALIAS, connections
from django.db import Error as DatabaseError

from dwsps_channels.broker.database.batch import Batch
from dwsps_channels.broker.database.connection import prepare
from dwsps_channels.broker.database.holder import new_holder
from dwsps_channels.broker.database.loading import load_keys, load_tail
from dwsps_channels.broker.database.rows import Row, digest, encode
from dwsps_channels.broker.database.table import (
    CommitUncertain,
    LeaseHeld,
    LeaseLost,
    LogTable,
    Place,
)
from dwsps_channels.broker.database.trimming import SLACK, Trimmer
from dwsps_channels.core.broker import Repeated
from dwsps_channels.core.keys import Keys
from dwsps_channels.core.log import Log
from dwsps_channels.core.ring import ENTRY_BYTES
from dwsps_channels.models import LogEntry, LogState
from dwsps_channels.protocol.text import printable

logger = logging.getLogger("dwsps_channels.broker")

# Seconds between two attempts to reach the database, the first and the longest; and to get the lease that another has.
RETRY_PAUSE: Final = 0.05
MAX_RETRY_PAUSE: Final = 1.0
HELD_PAUSE: Final = 0.25

# Seconds that the end of the interpreter waits for the lease to be given back.
EXIT_TIMEOUT: Final = 1.0


class Listener(Protocol):
    """The receiving end of the writer, whose calls are in order."""

    def begun(self, log: Log) -> None:
        """Take over ``log``: this process writes it, and what follows comes after it."""

    def resumed(self) -> None:
        """Go on: the database can be used again, and the log is as it was."""

    def committed(self, batch: Batch) -> None:
        """Deliver ``batch``: the log has it."""

    def refused(self, batch: Batch) -> None:
        """Refuse ``batch``: the log has nothing of it."""

    def unknown(self, batch: Batch) -> None:
        """Tell the publishers of ``batch`` that nobody can know any more if the log had it."""

    def held(self) -> None:
        """Leave off: another process writes the log, or has taken over."""

    def lost(self, problem: str) -> None:
        """Leave off: the database cannot be used for now. ``problem`` says why."""

    def ended(self) -> None:
        """Take note that the thread is done."""


class Writer:
    """Writes batches in the order in which they are put, while this process holds the lease.

    It keeps trying, whatever happens to the database.
    """

    def __init__(
        self,
        table: LogTable,
        listener: Listener,
        tell: Callable[..., None],
        *,
        lease_seconds: float,
        renew_interval: float,
    ) -> None:
        """``tell`` calls a method of ``listener``, with arguments, on the thread that it belongs to."""
        self._table = table
        self._listener = listener
        self._tell = tell
        self._lease_seconds = lease_seconds
        self._renew_interval = renew_interval
        self._holder = new_holder()
        # ``None`` wakes it up to stop.
        self._waiting: SimpleQueue[Batch | None] = SimpleQueue()
        self._is_stopping = False
        # Has no outcome yet.
        self._batch: Batch | None = None
        self._place = Place()
        # True while there is a connection that did not break.
        self._is_prepared = False
        # True if another process had the lease meanwhile.
        self._was_held = False
        self._keys = Keys()
        self._trimmer = Trimmer(table, self._holder)
        # A daemon, so that a process whose database hangs can end.
        self._thread = Thread(target=self._run, name="dwsps-log", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()
        # A process that ends without a word, as one that reloads its code, is not to leave its lease behind.
        atexit.register(self._exit)

    def put(self, batch: Batch) -> None:
        """Write ``batch`` after those before it."""
        self._waiting.put(batch)

    def stop(self) -> None:
        """Have the thread end, once what was put is written: it tells when it has."""
        self._is_stopping = True
        self._waiting.put(None)

    def _exit(self) -> None:
        self.stop()
        self._thread.join(EXIT_TIMEOUT)

    def _run(self) -> None:
        pause = RETRY_PAUSE
        while not self._is_stopping:
            began = monotonic()
            try:
                self._open()
                self._work()
            except (LeaseHeld, LeaseLost):
                self._was_held = True
                self._tell(self._listener.held)
                self._fail()
                pause = HELD_PAUSE
            except Exception as error:
                self._is_prepared = False
                problem = self._describe(error)
                self._tell(self._listener.lost, problem)
                self._fail()
                is_new = monotonic() - began > MAX_RETRY_PAUSE
                pause = RETRY_PAUSE if is_new else min(2 * pause, MAX_RETRY_PAUSE)
            else:
                break
            self._pause(pause)
        self._leave()
        atexit.unregister(self._exit)
        self._tell(self._listener.ended)

    def _fail(self) -> None:
        """Refuse what waits; what is uncertain is settled once the database is back."""
        batch = self._batch
        if batch is not None and not batch.is_uncertain:
            self._batch = None
            self._tell(self._listener.refused, batch)
        while True:
            try:
                next_batch = self._waiting.get_nowait()
            except Empty:
                return
            if next_batch is not None:
                self._tell(self._listener.refused, next_batch)

    def _pause(self, seconds: float) -> None:
        ends = monotonic() + seconds
        while not self._is_stopping and (left := ends - monotonic()) > 0:
            try:
                batch = self._waiting.get(timeout=left)
            except Empty:
                return
            if batch is not None:
                self._tell(self._listener.refused, batch)

    def _leave(self) -> None:
        try:
            if self._place.epoch and not self._was_held:
                self._table.release(self._holder)
        except Exception as error:
            logger.warning("the lease of the log ends by itself: %s", self._describe(error))
        try:
            connections[self._table.using].close()
        except Exception:
            logger.debug("the connection could not be closed", exc_info=True)

    # With the lease

    def _open(self) -> None:
        if not self._is_prepared:
            prepare(self._table.using)
            self._is_prepared = True
        # Looked at first: a process that waits for its turn is not to lock the database all the time.
        if self._table.is_held(self._holder):
            raise LeaseHeld
        place = self._table.take(self._holder, self._lease_seconds, self._place)
        self._settle(place.epoch)
        if self._was_held or (place.epoch, place.offset) != (self._place.epoch, self._place.offset):
            self._begin(place)
        else:
            self._tell(self._listener.resumed)
        if self._batch is not None:
            self._write(self._batch)

    def _settle(self, epoch: str) -> None:
        """Find out what became of the batch whose commit broke, if there is one. It stays if it is to be tried again."""
        batch = self._batch
        if batch is None:
            return
        is_known = epoch == self._place.epoch
        if is_known and self._table.has(batch.rows):
            self._finish(batch)
        elif is_known and not batch.is_given_up:
            batch.is_uncertain = False
        else:
            self._batch = None
            self._tell(self._listener.unknown, batch)

    def _begin(self, place: Place) -> None:
        self._keys = Keys()
        for key, offset in load_keys(self._table.entries):
            self._keys.add(key, offset)
        self._trimmer.begin()
        log = load_tail(
            self._table.entries, self._table.roots, place.epoch, place.offset, self._table.floors
        )
        self._place, self._was_held = place, False
        self._tell(self._listener.begun, log)

    def _work(self) -> None:
        """Write what comes, until this is to stop."""
        renew_due = monotonic() + self._renew_interval
        while True:
            try:
                batch = self._waiting.get(timeout=max(0.0, renew_due - monotonic()))
            except Empty:
                pass
            else:
                if batch is None:
                    return
                self._write(batch)
                for root in self._trimmer.over(SLACK):
                    self._trimmer.step(root)
            if monotonic() >= renew_due:
                self._table.renew(self._holder, self._lease_seconds)
                renew_due = monotonic() + self._renew_interval
                self._trim()

    def _trim(self) -> None:
        for root in self._trimmer.over():
            while self._waiting.empty() and self._trimmer.step(root):
                pass

    def _write(self, batch: Batch) -> None:
        self._batch = batch
        self._number(batch)
        if batch.rows:
            try:
                self._table.append(batch.rows, self._holder, self._place.offset)
            except CommitUncertain:
                batch.is_uncertain = True
                raise
        self._finish(batch)

    def _number(self, batch: Batch) -> None:
        """Give each publication its offset."""
        offset, now = self._place.offset, time()
        offsets: list[int] = []
        rows: list[Row] = []
        keys: dict[str, int] = {}
        for publication, text, _, _ in batch.waiting:
            key = ""
            if text:
                key = digest(text)
                known = keys.get(key) or self._keys.get(key)
                if known is not None:
                    offsets.append(Repeated(known))
                    continue
                keys[key] = offset + 1
            offset += 1
            offsets.append(offset)
            root = self._table.roots.root_of(publication.topic)
            data = encode(publication)
            rows.append(Row(offset, now, root, key, ENTRY_BYTES + len(data), data))
        batch.offsets, batch.rows = offsets, rows

    def _finish(self, batch: Batch) -> None:
        """Take note that the log has ``batch``."""
        batch.is_uncertain = False
        self._batch = None
        rows = batch.rows
        if rows:
            self._place = Place(self._place.epoch, rows[-1].offset, rows[-1].at)
            for row in rows:
                if row.key:
                    self._keys.add(row.key, row.offset)
            self._trimmer.add(rows)
        self._tell(self._listener.committed, batch)

    def _describe(self, error: Exception) -> str:
        if not isinstance(error, DatabaseError | CommitUncertain):
            logger.error("the log could not be written", exc_info=error)
            return type(error).__name__
        try:
            if self._lacks_tables():
                using = self._table.using
                option = "" if using == DEFAULT_DB_ALIAS else f" --database {using}"
                return f"its tables are missing; run 'manage.py migrate{option}'"
        except Exception:
            logger.debug("the tables could not be looked up", exc_info=True)
        return printable(str(error)).strip().removesuffix(".") or type(error).__name__

    def _lacks_tables(self) -> bool:
        connection: Any = connections[self._table.using]
        names = {each._meta.db_table for each in (LogEntry, LogState)}
        return not names.issubset(connection.introspection.table_names())
