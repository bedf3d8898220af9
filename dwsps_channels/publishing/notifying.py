"""Notices from any Django code: at once, or on commit of the caller's transaction."""

from typing import Final

from django.db import transaction
from django.db.transaction import TransactionManagementError

from dwsps_channels.core.notice import Notice
from dwsps_channels.exceptions import NotServing
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.publishing.choice import choose_publisher
from dwsps_channels.publishing.losses import FailureCounter
from dwsps_channels.publishing.publisher import Notifier
from dwsps_channels.publishing.transactions import database_in_transaction, has_commit_hooks

lost_notices: Final = FailureCounter(
    "connections were not told that access has changed: %d changes, %d since the start: %s"
)
"""The notices that this process could not send and that nobody was there to hear of it: they were sent on commit."""


def notify(notice: Notice, *, using: str | None = None) -> None:
    """Send ``notice`` to every process of the server; inside a transaction, on commit. See ``publish`` for ``using``.

    Raises:
        TransactionManagementError: after ``set_autocommit(False)``.
        NotServing, Unavailable: as ``publish`` does. On commit that is counted in the log.
    """
    notifier = choose_publisher()
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
        notify_or_count(notifier, notice)

    transaction.on_commit(notify_on_commit, using=database, robust=True)


async def anotify(notice: Notice) -> None:
    """Send ``notice`` from asynchronous code, at once. Raises as ``notify`` does."""
    await choose_publisher().anotify(notice)


def notify_or_count(notifier: Notifier, notice: Notice) -> None:
    """Send ``notice``, or count in the log that it was not sent."""
    try:
        notifier.notify(notice)
    except (NotServing, Unavailable) as error:
        lost_notices.add(error.problem)
    else:
        lost_notices.report_if_due()
