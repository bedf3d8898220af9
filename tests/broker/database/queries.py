"""Queries of tests on an event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from django.db import connections

from tests.broker.database.databases import ALIAS

T = TypeVar("T")


async def in_thread(query: Callable[[], T]) -> T:
    """Query the database as another process would: with a connection of its own, which is closed."""

    def careful() -> T:
        try:
            return query()
        finally:
            connections[ALIAS].close()

    return await asyncio.to_thread(careful)
