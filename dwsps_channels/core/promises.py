"""What will be known later, and whether it came to nothing."""

from collections.abc import Callable, Generator
from typing import Any, Protocol


class Promise(Protocol):
    """An ``asyncio.Future``, of which the core knows no more than this."""

    def add_done_callback(self, callback: Callable[[Any], object], /) -> None: ...

    def done(self) -> bool: ...

    def cancelled(self) -> bool: ...

    def exception(self) -> BaseException | None: ...

    def __await__(self) -> Generator[Any, None, None]: ...


def is_broken(promise: Promise) -> bool:
    """Whether it is known that nothing comes of it."""
    return promise.done() and (promise.cancelled() or promise.exception() is not None)
