"""The part of ``asyncio.Future`` that the engine needs, without importing asyncio."""

from collections.abc import Awaitable, Callable, Generator
from typing import Any, Protocol


class Future(Protocol):
    """A result that comes later. ``asyncio.Future`` is one."""

    def add_done_callback(self, callback: Callable[[Any], object], /) -> None: ...

    def done(self) -> bool: ...

    def cancelled(self) -> bool: ...

    def exception(self) -> BaseException | None: ...

    def result(self) -> Any: ...

    def __await__(self) -> Generator[Any, None, Any]: ...


def has_failed(future: Future) -> bool:
    """Tell whether ``future`` is done and has no result: it was cancelled, or has an exception."""
    return future.done() and (future.cancelled() or future.exception() is not None)


Gather = Callable[..., Awaitable[list[Any]]]
"""Awaits its arguments at once, and returns their results in order, as ``asyncio.gather`` does."""


async def one_by_one(*awaitables: Awaitable[Any]) -> list[Any]:
    """Await one after the other: the ``Gather`` of those who need no speed."""
    return [await each for each in awaitables]
