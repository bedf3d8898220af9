"""Settling futures that somebody may have given up."""

import asyncio


def resolve(future: asyncio.Future[None]) -> None:
    """What it stands for is done."""
    if not future.done():
        future.set_result(None)


def fail(future: asyncio.Future[None], error: Exception) -> None:
    """What it stands for has failed."""
    if not future.done():
        future.set_exception(error)


def resolved() -> asyncio.Future[None]:
    """What it stands for is done already."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future
