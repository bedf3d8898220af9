"""Databases for brokers of tests: their tables are there, in a database of the tests' own."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dj_database_url
from django.db import connections

from dwsps_channels.broker.database.broker import DatabaseBroker
from dwsps_channels.broker.database.roots import Roots
from dwsps_channels.broker.database.table import LogTable
from dwsps_channels.core.retention import Retention
from dwsps_channels.core.timings import Timings
from dwsps_channels.models import Lease, LogEntry, LogState

ALIAS = "log"
TIMINGS = Timings(LEASE_TIMEOUT=1.0, LEASE_RENEW_INTERVAL=0.2)
ROOMY = Retention(messages=100_000, bytes=64 * 1024 * 1024, seconds=3600.0)


@contextmanager
def database_at(url: str, *, empty: bool = False) -> Iterator[str]:
    """Have the database at ``url`` for the alias that this yields, without rows of the log; ``empty``: without tables."""
    described: dict[str, Any] = {**dj_database_url.parse(url)}
    connections.settings[ALIAS] = connections.configure_settings(
        {"default": connections.settings["default"], ALIAS: described}
    )[ALIAS]
    try:
        for model in () if empty else (LogEntry, LogState, Lease):
            model._default_manager.using(ALIAS).delete()
        yield ALIAS
    finally:
        connections[ALIAS].close()
        del connections[ALIAS]
        del connections.settings[ALIAS]


@contextmanager
def sqlite(migrated: Path, folder: Path) -> Iterator[str]:
    """Have a copy of the SQLite file ``migrated``."""
    file = shutil.copy(migrated, folder / "log.sqlite3")
    with database_at(f"sqlite:///{file}") as using:
        yield using


def broker(
    using: str,
    *,
    log: Retention = ROOMY,
    tail: Retention = ROOMY,
    history: dict[str, Retention | None] | None = None,
    timings: Timings = TIMINGS,
    **options: int,
) -> DatabaseBroker:
    """Make a broker on the log in the database ``using``."""
    return DatabaseBroker(LogTable(using, Roots(log, tail, history or {})), timings, **options)
