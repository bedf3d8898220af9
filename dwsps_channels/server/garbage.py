"""Python's garbage collection, kept from halting a process while it is busy."""

import asyncio
import gc
from typing import Final

# A full collection is put off for at most so many seconds.
MAX_DELAY: Final = 30.0

# A threshold that is never reached.
_NEVER: Final = 2**30


class FullCollections:
    """The collections that look through all objects of the process: with 10 000 clients for more than 0.3 s.

    Python begins one after many objects were made that stay for a while, whether there is garbage among the others or not.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._resuming: asyncio.TimerHandle | None = None
        self._thresholds = gc.get_threshold()

    def put_off(self) -> None:
        """Have none until ``resume``, which is called if need be. New objects are looked through all the same."""
        if self._resuming is None:
            self._resuming = self._loop.call_later(MAX_DELAY, self.resume)
            self._thresholds = gc.get_threshold()
            gc.set_threshold(self._thresholds[0], _NEVER, _NEVER)

    def resume(self) -> None:
        """Leave them to Python again, to which what was made meanwhile counts as old: it begins none because of it."""
        if self._resuming is None:
            return
        self._resuming.cancel()
        self._resuming = None
        # The project may have frozen objects, which must stay so.
        if gc.get_freeze_count() == 0:
            gc.freeze()
            gc.unfreeze()
        gc.set_threshold(*self._thresholds)
