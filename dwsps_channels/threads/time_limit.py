"""A limit on the time for which an answer of the project's code, or of its database, is awaited."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class NoAnswer(TimeoutError):
    """There was no answer in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"there was no answer within {seconds:g} s")


async def in_time(answer: Awaitable[T], seconds: float) -> T:
    """Await ``answer`` for so many seconds at most, then cancel it. A thread goes on all the same.

    Raises:
        NoAnswer: there was none.
        Exception: what awaiting ``answer`` raises.
    """
    try:
        async with asyncio.timeout(seconds) as waiting:
            return await answer
    except TimeoutError:
        if waiting.expired():
            raise NoAnswer(seconds) from None
        raise
