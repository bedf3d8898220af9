"""Database connections in threads that live long, cared for as a request's are."""

from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from asgiref.sync import sync_to_async
from django import db
from django.db import connections

from dwsps_channels.capturing import is_under_test

T = TypeVar("T")

# How long async code may meet a connection that has died, or that CONN_MAX_AGE says is too old.
REFRESH_INTERVAL = 1.0


def close_old_connections() -> None:
    """Close this thread's connections that broke or are too old, as Django does around each request."""
    if is_under_test():
        close_connections()
    else:
        db.close_old_connections()


def close_connections() -> None:
    """Close this thread's connections, whatever CONN_MAX_AGE says.

    One in a transaction stays: it is that of a test, which rolls back at its end. Any other one that a test leaves would
    keep its database from being dropped.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


def close_between_calls() -> None:
    """As ``close_old_connections``, but a thread that goes on at once keeps a good connection.

    Without CONN_MAX_AGE each call would connect to the database again.
    """
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None and (
            connection.errors_occurred
            or connection.settings_dict["CONN_MAX_AGE"] != 0
            or connection.get_autocommit() != connection.settings_dict["AUTOCOMMIT"]
        ):
            connection.close_if_unusable_or_obsolete()


def again_if_broken(query: Callable[[], T]) -> T:
    """Call ``query``; once more if it fails over a connection that is closed for it: a broken one, or one that is too old.

    For code that nobody closes old connections around. A transaction is left alone.
    """
    try:
        return query()
    except db.Error:
        if not _close_failed():
            raise
    return query()


def _close_failed() -> bool:
    closed = False
    for connection in connections.all(initialized_only=True):
        # ``autocommit`` is off in a transaction made by hand.
        if connection.errors_occurred and not connection.in_atomic_block and connection.autocommit:
            was_open = connection.connection is not None
            connection.close_if_unusable_or_obsolete()
            closed |= was_open and connection.connection is None
    return closed


def leaving_none_open(query: Callable[[], T]) -> T:
    """Call ``query`` and close the connections of this thread that it opened."""
    before = {each for each in connections.all(initialized_only=True) if each.connection}
    try:
        return query()
    finally:
        for connection in connections.all(initialized_only=True):
            if connection not in before and not connection.in_atomic_block:
                connection.close()


class Refresher:
    """Closes the old connections of async code: those of the thread that its ORM calls share.

    A hop to that thread for each call would cost more than the call, so it is made once a second, and after an error.
    """

    def __init__(self) -> None:
        self._refreshed = float("-inf")

    async def refresh(self) -> None:
        """Close what is old, unless that was done within the last second."""
        if monotonic() - self._refreshed >= REFRESH_INTERVAL:
            self._refreshed = monotonic()
            await sync_to_async(close_old_connections)()

    def suspect(self) -> None:
        """Have the next ``refresh`` look: something failed."""
        self._refreshed = float("-inf")
