"""One sweep: publish what is due in a database, and delete what the log has."""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from time import monotonic
from typing import Final, NamedTuple
from uuid import UUID

from django.db.models import F
from django.db.models.functions import Now

from dwsps_channels.conf import conf
from dwsps_channels.durable.databases import rows_of
from dwsps_channels.exceptions import NotServing
from dwsps_channels.models import DurableMessage, DurableMessageQuerySet
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.protocol.text import printable
from dwsps_channels.protocol.topics import check
from dwsps_channels.publishing.durable import MARGIN, StoredMessage
from dwsps_channels.publishing.encoding import check_limits
from dwsps_channels.publishing.publisher import Publisher
from dwsps_channels.remote.websocket import RefusedByServer

logger = logging.getLogger("dwsps_channels.durable")

# Messages of one sweep.
BATCH: Final = 100

# Seconds until a message is tried again if the server could not be reached, or did not take it.
RETRY_DELAY: Final = 5.0

# The same if the message itself is refused: doubled with each attempt, up to the cap.
REFUSED_DELAY: Final = 10.0
REFUSED_DELAY_CAP: Final = 3600.0


class Swept(NamedTuple):
    """The outcome of a sweep."""

    sent: int = 0
    """Messages that the log has now."""
    refused: int = 0
    """Messages that cannot be published as they are: too large by now, say. They are tried again, less and less often."""
    refusal: str = ""
    """Why the last of them was refused."""
    problem: str = ""
    """Why the sweep ended early; empty: it did not."""
    left: tuple[UUID, ...] = ()
    """Messages that were not tried, as the sweep ended."""

    @property
    def is_complete(self) -> bool:
        """False if there may be more that is due now."""
        return not self.left and self.sent + self.refused < BATCH


def sweep(
    database: str,
    publisher: Publisher,
    only: Sequence[UUID] | None = None,
    *,
    limit: int | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Swept:
    """Publish the oldest messages that are due, or ``only`` these, for ``DWSPS["PUBLISH_TIMEOUT"]`` or so.

    They are ``limit`` at most, and ``BATCH`` without it.

    Each has the key that its process publishes it with, so the log takes it once. It ends with the first message that the
    server does not take; a message that is refused for what it is holds up no other.
    """
    rows = rows_of(database)
    chosen = rows.due() if only is None else rows.filter(pk__in=only)
    ids = list(
        chosen.order_by("due_at", "created_at", "id").values_list("pk", flat=True)[: limit or BATCH]
    )
    # Written before anything is sent. So a replica, which takes no writes, sends nothing; and a message that kills the process
    # is not the first again.
    claim = timedelta(seconds=2 * conf.PUBLISH_TIMEOUT + MARGIN)
    claimed = {"attempts": F("attempts") + 1, "due_at": Now() + claim}
    if not ids or not chosen.filter(pk__in=ids).update(**claimed):
        return Swept()
    ends_at = monotonic() + conf.PUBLISH_TIMEOUT
    left = list(rows.filter(pk__in=ids).oldest_first())
    sent: list[UUID] = []
    refused, refusal, problem = 0, "", ""
    while left and not problem and monotonic() < ends_at and not is_stopping():
        row = left.pop(0)
        try:
            _publish(publisher, StoredMessage.of(row, database))
        except _Refused as error:
            refused, refusal = refused + 1, str(error)
            # The attempts include this one.
            delay = min(REFUSED_DELAY * 2 ** min(row.attempts - 1, 16), REFUSED_DELAY_CAP)
            _postpone(rows, row, delay, refusal)
        except (NotServing, Unavailable) as error:
            problem = error.problem
            if isinstance(error, NotServing):
                problem = f"the server cannot be reached: {problem}"
            _postpone(rows, row, RETRY_DELAY, problem)
        else:
            sent.append(row.pk)
    rows.filter(pk__in=sent).delete()
    _release(rows, left)
    return Swept(len(sent), refused, refusal, problem, tuple(row.pk for row in left))


class _Refused(Exception):
    """A message that cannot be published as it is."""


def _publish(publisher: Publisher, stored: StoredMessage) -> None:
    message = stored.message
    try:
        # The settings may have changed since it was stored.
        check(message.topic)
        check_limits(bytes(message.payload))
        publisher.publish(message)
    except (ValueError, RefusedByServer) as error:
        raise _Refused(str(error)) from error
    except (NotServing, Unavailable):
        raise
    except Exception as error:
        # Whatever it is, it must not hold up the others.
        logger.exception("a durable message cannot be published: %s", message.durable_id)
        raise _Refused(f"{type(error).__name__}: {error}") from error


def _postpone(
    rows: DurableMessageQuerySet, row: DurableMessage, seconds: float, problem: str
) -> None:
    rows.filter(pk=row.pk).update(
        due_at=Now() + timedelta(seconds=seconds), last_error=printable(problem)[:500]
    )


def _release(rows: DurableMessageQuerySet, left: Sequence[DurableMessage]) -> None:
    """Give back what was not tried."""
    rows.filter(pk__in=[row.pk for row in left]).update(attempts=F("attempts") - 1, due_at=Now())


def drop_old(database: str) -> int:
    """Delete the messages that are older than ``DWSPS["DURABLE_MAX_AGE"]``; return how many there were."""
    old = rows_of(database).older_than(conf.DURABLE_MAX_AGE)
    # A replica refuses to delete even nothing.
    return old.delete()[0] if old.exists() else 0
