"""The end of a task."""

import asyncio
from typing import Any, Final

_CANCEL_PAUSE: Final = 0.05


async def end(task: asyncio.Task[Any] | None) -> None:
    """Cancel ``task`` and wait until it is done. Nothing that it raises is raised or reported."""
    if task is None:
        return
    # Again if it was forgotten. asyncio.TaskGroup does that to a cancellation that comes in the moment one of its tasks
    # fails; and up to Python 3.11 asyncio.wait_for, which redis-py sends with, if it comes in the moment that it ends.
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_CANCEL_PAUSE)
    if not task.cancelled():
        task.exception()
