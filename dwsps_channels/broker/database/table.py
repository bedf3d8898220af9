"""The log's rows in the database, for the process that writes them."""

from collections.abc import Sequence
from functools import cached_property
from secrets import token_hex
from typing import Any, Final

from django.db import Error as DatabaseError
from django.db import connections
from django.db.models import QuerySet
from msgspec import Struct

from dwsps_channels.broker.database.connection import writing
from dwsps_channels.broker.database.holder import has_ended
from dwsps_channels.broker.database.roots import REST, Roots, around
from dwsps_channels.broker.database.rows import Row, decode
from dwsps_channels.models import Lease, LogEntry, LogState
from dwsps_channels.models.lease import LeaseManager

LEASE: Final = "log"
"""The name of the lease of the process that writes."""

# Seconds that a time may lose on its way into a database and back.
_AT_PRECISION: Final = 1e-3

# Rows that are read at once, and moved to other roots in one statement.
_MOVED_AT_ONCE: Final = 500


class LeaseHeld(Exception):
    """Another process writes the log."""


class LeaseLost(Exception):
    """Another process has taken the lease meanwhile: nothing was written."""


class CommitUncertain(Exception):
    """The connection broke during the commit: the rows may have been written, or not."""


class Place(Struct, frozen=True):
    """The end of the log, as a process knows it."""

    epoch: str = ""
    offset: int = 0
    at: float = 0.0
    """When its last publication was appended; 0: not known, or nothing was published yet."""


class LogTable:
    """Writes to the log in the database ``using``. Use it from one thread, which has a connection for it alone.

    All methods raise ``django.db.Error`` if the database refuses, or cannot be reached.
    """

    def __init__(self, using: str, roots: Roots) -> None:
        self.using = using
        self.roots = roots
        self.floors: dict[str, int] = {}
        """By root: everything that was published there after this offset is in the log."""

    @property
    def entries(self) -> "QuerySet[LogEntry]":
        """The publications."""
        return LogEntry.objects.using(self.using)

    def is_held(self, holder: str) -> bool:
        """Return whether another process than ``holder`` has the lease, as far as can be known. It only reads."""
        other = self._leases().holder_of(LEASE)
        return other not in ("", holder) and not has_ended(other)

    def take(self, holder: str, seconds: float, known: Place) -> Place:
        """Take the lease for ``holder``; return the end of the log, which only this process writes to from now on.

        ``known`` is the end that this process has read to, if it has. The epoch is another if the log has lost what comes
        up to there, or the end that it had itself.

        Raises:
            LeaseHeld: another process has the lease.
        """
        with writing(self.using):
            self._acquire(holder, seconds)
            # Waits until a commit of ours is done that the connection broke in.
            found = LogState.objects.using(self.using).select_for_update().filter(pk=1).first()
            state = found or LogState(pk=1, epoch="", offset=0, floors={})
            last = self.entries.order_by("-offset").values_list("offset", "at").first()
            self._renew_epoch(state, last or (0, 0.0), known)
            state.floors = self._floors(state.floors)
            state.holder = holder
            state.save(using=self.using, force_insert=found is None)
        self.floors = state.floors
        at = last[1] if last and last[0] == state.offset else 0.0
        return Place(state.epoch, state.offset, at)

    def _acquire(self, holder: str, seconds: float) -> None:
        leases = self._leases()
        if leases.acquire(LEASE, holder, seconds):
            return
        other = leases.holder_of(LEASE)
        if not (has_ended(other) and leases.acquire(LEASE, holder, seconds, instead_of=other)):
            raise LeaseHeld

    def _renew_epoch(self, state: LogState, last: tuple[int, float], known: Place) -> None:
        """Begin another epoch if the log has not all that it had."""
        trimmed = max(state.floors.values(), default=0)
        is_whole = last[0] == state.offset or (last[0] < state.offset <= trimmed)
        if is_whole and known.epoch == state.epoch:
            # If the database was put back to an earlier state, and written to since, the same offset is another publication.
            is_whole = known.offset <= state.offset and (
                not known.at or self._has(known) or known.offset <= trimmed
            )
        if not state.epoch or not is_whole:
            state.epoch = token_hex(8)
            state.offset = max(state.offset, last[0], known.offset)

    def _has(self, known: Place) -> bool:
        at = known.at - _AT_PRECISION, known.at + _AT_PRECISION
        return self.entries.filter(offset=known.offset, at__range=at).exists()

    def _floors(self, floors: dict[str, int]) -> dict[str, int]:
        """Return the floors of the configured roots. Move what belongs to other ones than before."""
        names = set(self.roots.log)
        if not floors or names == set(floors):
            return {name: floors.get(name, 0) for name in names}
        moved: dict[str, list[int]] = {}
        rows = self.entries.values_list("offset", "root", "data")
        for offset, root, data in rows.iterator(_MOVED_AT_ONCE):
            try:
                name = self.roots.root_of(decode(data).topic)
            except ValueError:
                continue
            if name != root:
                moved.setdefault(name, []).append(offset)
        for name, offsets in moved.items():
            for start in range(0, len(offsets), _MOVED_AT_ONCE):
                part = offsets[start : start + _MOVED_AT_ONCE]
                self.entries.filter(offset__in=part).update(root=name)
        # Something may be missing of a root if anything is of those that had its topics before.
        before = {name: around(name, floors) for name in names - {REST}}
        before[REST] = {REST, *(set(floors) - names)}
        return {name: max(floors.get(each, 0) for each in before[name]) for name in names}

    def append(self, rows: Sequence[Row], holder: str, after: int) -> None:
        """Add the ``rows`` that follow the offset ``after``, all or none.

        Raises:
            LeaseLost: ``holder`` has the lease no more.
            CommitUncertain: nobody knows if they were added: see ``has``.
        """
        is_committing = False
        try:
            with writing(self.using) as cursor:
                # Whoever takes the lease writes another holder to this row, before or after this transaction.
                cursor.execute(self._advance, (rows[-1].offset, holder, after))
                if cursor.rowcount != 1:
                    raise LeaseLost
                cursor.executemany(self._insert, rows)
                is_committing = True
        except DatabaseError as error:
            if is_committing:
                raise CommitUncertain(str(error)) from error
            raise

    def has(self, rows: Sequence[Row]) -> bool:
        """Return whether ``rows``, whose outcome was uncertain, were added. Call ``take`` first."""
        row = rows[0]
        for at, data in self.entries.filter(offset=row.offset).values_list("at", "data"):
            return abs(at - row.at) < _AT_PRECISION and bytes(data) == row.data
        return False

    def renew(self, holder: str, seconds: float) -> None:
        """Extend the lease.

        Raises:
            LeaseLost: ``holder`` has it no more.
        """
        if not self._leases().renew(LEASE, holder, seconds):
            raise LeaseLost

    def release(self, holder: str) -> None:
        """Give the lease back."""
        self._leases().release(LEASE, holder)

    def remove(self, root: str, offset: int, holder: str) -> None:
        """Remove what ``root`` has up to ``offset``.

        Raises:
            LeaseLost: ``holder`` has the lease no more: nothing was removed.
        """
        floors = {**self.floors, root: offset}
        with writing(self.using):
            state = LogState.objects.using(self.using).filter(pk=1, holder=holder)
            if not state.update(floors=floors):
                raise LeaseLost
            self.entries.filter(root=root, offset__lte=offset).delete()
        self.floors = floors

    def _leases(self) -> LeaseManager:
        return Lease.objects.db_manager(self.using)

    @property
    def _connection(self) -> Any:
        return connections[self.using]

    @cached_property
    def _advance(self) -> str:
        quote = self._connection.ops.quote_name
        offset, holder, key = map(quote, ("offset", "holder", "id"))
        table = quote(LogState._meta.db_table)
        return (
            f"UPDATE {table} SET {offset} = %s WHERE {key} = 1 AND {holder} = %s AND {offset} = %s"
        )

    @cached_property
    def _insert(self) -> str:
        operations = self._connection.ops
        columns = ", ".join(map(operations.quote_name, Row._fields))
        # As Django's own BinaryField writes it. Its function for that takes other arguments in each version.
        data = "_binary %s" if self._connection.vendor == "mysql" else "%s"
        values = ["%s"] * (len(Row._fields) - 1) + [data]
        table = operations.quote_name(LogEntry._meta.db_table)
        return f"INSERT INTO {table} ({columns}) VALUES ({', '.join(values)})"
