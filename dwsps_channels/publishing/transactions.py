"""The transaction that a publish belongs to."""

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper


def database_in_transaction(using: str | None) -> str | None:
    """Return the alias of the database whose commit is to be waited for; ``None``: no transaction is open."""
    in_transaction = [
        connection.alias
        for connection in (
            connections.all(initialized_only=True) if using is None else [connections[using]]
        )
        if connection.in_atomic_block or _is_manual(connection)
    ]
    if not in_transaction:
        return None
    return DEFAULT_DB_ALIAS if DEFAULT_DB_ALIAS in in_transaction else in_transaction[0]


def has_commit_hooks(database: str) -> bool:
    """Return whether Django knows when the open transaction of ``database`` ends: it was not made by hand."""
    return connections[database].in_atomic_block


def _is_manual(connection: BaseDatabaseWrapper) -> bool:
    # Not get_autocommit(), which would connect: a task that touches no database needs none to publish.
    return connection.connection is not None and not connection.autocommit
