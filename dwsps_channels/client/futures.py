"""Settling futures that somebody may have given up."""

import asyncio
from typing import Any


def resolve(future: asyncio.Future[None]) -> None:
    """Set the result, unless the future is done."""
    if not future.done():
        future.set_result(None)


def fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Set the exception, unless the future is done."""
    if not future.done():
        future.set_exception(error)


def resolved() -> asyncio.Future[None]:
    """Return a future that is done already."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future
