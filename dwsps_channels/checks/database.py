"""The check that looks into databases: only if it is asked to, as by ``manage.py migrate``."""

from collections.abc import Iterable
from typing import Any

from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import Error as DatabaseError

from dwsps_channels.durable.databases import has_table
from dwsps_channels.durable.waiting import lacks_worker, waiting_by_topic


@register("dwsps_channels", Tags.database)
def check_durable(databases: Iterable[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check that a worker publishes the durable messages that wait."""
    try:
        found = [alias for alias in databases or () if has_table(alias)]
        if not found or not lacks_worker(found):
            return []
        count = sum(each.messages for each in waiting_by_topic(found))
    except DatabaseError:
        return []  # Django reports it, or the tables are not there yet
    return [
        Warning(
            f"durable messages wait, and no worker is running to publish them: {count}",
            hint="start 'manage.py runpubsub', or publish them with 'manage.py durable send'",
            id="dwsps_channels.W013",
        )
    ]
