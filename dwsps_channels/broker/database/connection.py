"""The connection of the process that writes the log, whatever the database."""

from typing import Any, Final

from django.db import connections

LOCK_TIMEOUT: Final = 5.0
"""Seconds that a commit waits for others that have locked the database."""


def prepare(using: str) -> None:
    """Connect, in this thread, to the database ``using``, and have a commit mean that the disk has it.

    Raises:
        django.db.Error: that is not possible for now.
    """
    connection: Any = connections[using]
    connection.close()
    with connection.cursor() as cursor:
        for statement in _STATEMENTS.get(connection.vendor, ()):
            cursor.execute(statement.format(seconds=int(LOCK_TIMEOUT), ms=int(LOCK_TIMEOUT * 1000)))


_STATEMENTS: Final = {
    "sqlite": (
        # First: to change the journal takes a lock.
        "PRAGMA busy_timeout = {ms}",
        # Those who read and the one who writes do not wait for each other.
        "PRAGMA journal_mode = WAL",
        # With NORMAL, an operating system that crashes takes what was acknowledged last.
        "PRAGMA synchronous = FULL",
    ),
    "postgresql": (
        "SET lock_timeout = {ms}",
        # Kept if it is stricter.
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
    ),
    "mysql": ("SET SESSION innodb_lock_wait_timeout = {seconds}",),
}
