"""The connection of the process that writes the log, whatever the database."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.db import connections, transaction

LOCK_TIMEOUT: Final = 5.0
"""Seconds that a commit waits for others that have locked the database."""


def prepare(using: str) -> None:
    """Connect, in this thread, to the database ``using``, and have a commit mean that the disk has it.

    Raises:
        django.db.Error: that is not possible for now.
    """
    connection: Any = connections[using]
    connection.close()
    commit_by_itself(using)
    with connection.cursor() as cursor:
        for statement in _STATEMENTS.get(connection.vendor, ()):
            cursor.execute(statement.format(seconds=int(LOCK_TIMEOUT), ms=int(LOCK_TIMEOUT * 1000)))


def commit_by_itself(using: str) -> None:
    """Turn autocommit on, which ``DATABASES`` may turn off: nobody else commits for a thread of the broker's."""
    connection = connections[using]
    if not connection.in_atomic_block and not connection.get_autocommit():
        connection.set_autocommit(True)


@contextmanager
def writing(using: str) -> Iterator[Any]:
    """Make a transaction; yield a cursor in it."""
    connection: Any = connections[using]
    with transaction.atomic(using), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(_POSTGRESQL, (f"{int(LOCK_TIMEOUT * 1000)}ms",))
        yield cursor


_STATEMENTS: Final = {
    "sqlite": (
        # First: to change the journal takes a lock.
        "PRAGMA busy_timeout = {ms}",
        # Those who read and the one who writes do not wait for each other.
        "PRAGMA journal_mode = WAL",
        # With NORMAL, an operating system that crashes takes what was acknowledged last.
        "PRAGMA synchronous = FULL",
    ),
    "mysql": ("SET SESSION innodb_lock_wait_timeout = {seconds}",),
}

# For one transaction: a pool, or a pgbouncer, gives the session to others afterwards. A stricter commit is kept.
_POSTGRESQL: Final = """
SELECT set_config('lock_timeout', %s, true), set_config(
    'synchronous_commit',
    CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END,
    true
)
"""
