"""The durable messages that wait, for operators and scripts."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from django.db.models import Count, Max, Min
from django.db.models.functions import Now

from dwsps_channels.models import DurableMessage
from dwsps_channels.peering.lease import worker_is_running

# Seconds for which a message may be due before a worker must have noticed it.
NEGLECT_TIMEOUT: Final = 10.0


class Waiting(NamedTuple):
    """The messages to one topic that wait in one database."""

    database: str
    topic: str
    messages: int
    oldest_at: datetime
    """When the oldest of them was stored."""
    age: float
    """Its age in seconds, by the database's clock."""
    attempts: int
    """The most that the worker has tried one of them."""
    last_error: str
    """Why one of them could not be published; empty: none has failed."""


def waiting_by_topic(databases: Iterable[str]) -> list[Waiting]:
    """Look up what waits in these databases, the oldest first."""
    found = []
    for database in databases:
        rows = DurableMessage.objects.using(database).annotate(now=Now()).values("topic")
        found += [
            Waiting(
                database,
                row["topic"],
                row["messages"],
                row["oldest_at"],
                max(0.0, (row["read_at"] - row["oldest_at"]).total_seconds()),
                row["tried"],
                row["error"],
            )
            for row in rows.annotate(
                messages=Count("pk"),
                oldest_at=Min("created_at"),
                read_at=Max("now"),
                tried=Max("attempts"),
                error=Max("last_error"),
            )
        ]
    return sorted(found, key=lambda each: each.age, reverse=True)


def lacks_worker(databases: Iterable[str]) -> bool:
    """Return whether messages wait in these databases that no worker looks at."""
    latest = Now() - timedelta(seconds=NEGLECT_TIMEOUT)
    return (
        any(
            DurableMessage.objects.using(database).filter(due_at__lt=latest).exists()
            for database in databases
        )
        and not worker_is_running()
    )
