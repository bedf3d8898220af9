"""The sweeper: publishes the durable messages that their process did not, for the worker that has the lease."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import Final, TypeVar

from channels.db import database_sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import connections

from dwsps_channels.conf import conf
from dwsps_channels.durable.databases import has_table, rows_of
from dwsps_channels.durable.sweep import drop_old, sweep
from dwsps_channels.logs.throttle import LogThrottle
from dwsps_channels.protocol.text import printable
from dwsps_channels.publishing.publisher import Publisher

logger = logging.getLogger("dwsps_channels.durable")

# Seconds between two looks at the tables.
SWEEP_INTERVAL: Final = 1.0

# Seconds between two looks at which databases have the table, and at what is too old.
CARE_INTERVAL: Final = 60.0

T = TypeVar("T")


class Sweeper:
    """Sweeps each database that has the table, once a second while something is due."""

    work = "publishing durable messages that were left behind"

    def __init__(self, publisher: Callable[[], Awaitable[Publisher]]) -> None:
        """Publish with what ``publisher`` returns, which is called for each sweep."""
        self._publisher = publisher
        # Not the thread that other queries share: a publish may wait for seconds.
        self._thread = ThreadPoolExecutor(1, "dwsps-durable")
        self._stopping = threading.Event()
        self._databases: list[str] = []
        # Those whose last sweep ended early, as the server took nothing.
        self._failing: set[str] = set()
        self._looked_at = float("-inf")
        self._dropped_at = float("-inf")
        self._throttle = LogThrottle()

    async def is_wanted(self) -> bool:
        """Return whether a message is due."""
        return await self._in_thread(self._has_due)

    async def run(self) -> None:
        """Sweep until cancelled. What fails is logged, and tried again."""
        self._stopping.clear()
        while True:
            try:
                is_complete = await self._run_once()
            except Exception:
                if self._throttle.is_due("run"):
                    logger.exception("durable messages wait, as they cannot be published")
                is_complete = True
            if is_complete:
                await asyncio.sleep(SWEEP_INTERVAL)

    async def _run_once(self) -> bool:
        """Sweep each database; return whether nothing is left that is due."""
        sweep = partial(self._sweep, await self._publisher())
        sweeping = asyncio.ensure_future(self._in_thread(sweep))
        try:
            return await asyncio.shield(sweeping)
        except asyncio.CancelledError:
            # It ends after the message that is being published.
            self._stopping.set()
            await asyncio.wait([sweeping])
            raise

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await database_sync_to_async(call, thread_sensitive=False, executor=self._thread)()

    # In the thread

    def _has_due(self) -> bool:
        return any(
            self._guarded(database, partial(_has_due, database))
            for database in self._databases_with_table()
        )

    def _sweep(self, publisher: Publisher) -> bool:
        databases = self._databases_with_table()
        if monotonic() - self._dropped_at >= CARE_INTERVAL:
            self._dropped_at = monotonic()
            for database in databases:
                self._guarded(database, partial(self._drop_old, database))
        complete = [
            self._guarded(database, partial(self._sweep_one, database, publisher))
            for database in databases
        ]
        return False not in complete

    def _sweep_one(self, database: str, publisher: Publisher) -> bool:
        # While the server is away one message finds out: claiming a batch for it would write to all its rows each second.
        limit = 1 if database in self._failing else None
        swept = sweep(database, publisher, limit=limit, is_stopping=self._stopping.is_set)
        self._failing.discard(database)
        if swept.problem:
            self._failing.add(database)
        if swept.sent:
            logger.info(
                "published durable messages that their process had not published: %d", swept.sent
            )
        if swept.refused:
            logger.warning(
                "durable messages refused, see 'manage.py durable list': %d: %s",
                swept.refused,
                printable(swept.refusal),
            )
        if swept.problem and self._throttle.is_due(("publish", database)):
            logger.warning(
                "durable messages wait, as they cannot be published: %s", printable(swept.problem)
            )
        return swept.is_complete or bool(swept.problem)

    def _drop_old(self, database: str) -> None:
        if dropped := drop_old(database):
            logger.warning(
                "durable messages dropped, as they had waited longer than DURABLE_MAX_AGE, %g s: %d",
                conf.DURABLE_MAX_AGE,
                dropped,
            )

    def _databases_with_table(self) -> list[str]:
        if monotonic() - self._looked_at >= CARE_INTERVAL:
            self._looked_at = monotonic()
            known = self._databases
            self._databases = [
                alias
                for alias in connections
                # A database that fails now has not lost its table.
                if (has := self._guarded(alias, partial(has_table, alias)))
                or (has is None and alias in known)
            ]
        return self._databases

    def _guarded(self, database: str, call: Callable[[], T]) -> T | None:
        """Call ``call``. If the database fails return ``None``: the others must not wait for it."""
        try:
            return call()
        except (DatabaseError, ImproperlyConfigured) as error:
            if self._throttle.is_due(("query", database)):
                logger.warning(
                    "the database '%s' cannot be asked for durable messages: %s",
                    database,
                    printable(str(error)),
                )
            return None


def _has_due(database: str) -> bool:
    return rows_of(database).due().exists()
