"""Notices from any Django code: at once, or on commit of the caller's transaction."""

import os
from typing import Final

from django.db import transaction
from django.db.transaction import TransactionManagementError

from dwsps_channels.core.notice import Notice
from dwsps_channels.exceptions import NotServing
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.publishing.choice import choose_publisher
from dwsps_channels.publishing.losses import FailureCounter
from dwsps_channels.publishing.resending import Resender
from dwsps_channels.publishing.transactions import database_in_transaction, has_commit_hooks

lost_notices: Final = FailureCounter(
    "connections were not told at once that access has changed: %d changes, %d since the start: %s"
)
"""The notices that this process could not send at once, if there was nobody to raise it to."""

resender: Final = Resender(lambda: choose_publisher())
"""Sends them again."""

os.register_at_fork(after_in_child=resender.forget)


def notify(notice: Notice, *, using: str | None = None) -> None:
    """Send ``notice`` to every process of the server; inside a transaction, on commit. See ``publish`` for ``using``.

    Raises:
        TransactionManagementError: after ``set_autocommit(False)``.
        NotServing, Unavailable: as ``publish`` does. On commit that is counted in the log, and the notice is sent again
            until the server takes it; so it is on the event loop that serves, which does not wait for the answer.
    """
    notifier = choose_publisher(notify_later)
    database = database_in_transaction(using)
    if database is None:
        notifier.notify(notice)
        return
    if not has_commit_hooks(database):
        raise TransactionManagementError(
            f"the database '{database}' is in a transaction made by hand, whose commit cannot be waited for: "
            "commit first"
        )

    # A function, not a partial: Django names it in its log.
    def notify_on_commit() -> None:
        try:
            notifier.notify(notice)
        except (NotServing, Unavailable) as error:
            notify_later(notice, error)

    transaction.on_commit(notify_on_commit, using=database, robust=True)


async def anotify(notice: Notice) -> None:
    """Send ``notice`` from asynchronous code, at once. Raises as ``notify`` does."""
    await choose_publisher().anotify(notice)


def notify_later(notice: Notice, error: NotServing | Unavailable) -> None:
    """Count that ``notice`` could not be sent because of ``error``, and send it again until the server takes it."""
    lost_notices.add(error.problem)
    if isinstance(error, Unavailable):
        resender.add(notice)  # without a server there are no connections to tell
