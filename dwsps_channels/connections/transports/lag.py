"""Backpressure: the time for which a client is behind with reading, and publishers wait for it."""

import asyncio
from collections.abc import Callable
from typing import Final

# A client is behind once this part of its limit waits for it, and has caught up when half of that does.
PART: Final = 4

# A client that had no time to read yet may have so many times its limit waiting: many publishers can bring much at once,
# before they come to wait.
BURST_FACTOR: Final = 4

# Publishers wait for a client that is behind as long as it reads at least so much, looked at so often. One that reads
# less is slow: it holds nobody up, and is closed once more than its limit waits.
LOOK_INTERVAL: Final = 2.0
LOOK_BYTES: Final = 512 * 1024


class Lag:
    """Make one when a client falls behind, and ``end`` it when it has caught up or is gone.

    ``queued`` tells how many bytes are on their way to the client, wherever they wait. ``tell`` is called with
    ``True`` at once, and with ``False`` when publishers need not wait any more: at the end or, before that, because the
    client does not read.
    """

    __slots__ = ("_last", "_queued", "_relief", "_tell", "_timer")

    def __init__(self, queued: Callable[[], int], tell: Callable[[bool], None]) -> None:
        loop = asyncio.get_running_loop()
        self._queued = queued
        self._tell = tell
        self._relief: asyncio.Future[None] = loop.create_future()
        self._last = queued()
        self._timer = loop.call_later(LOOK_INTERVAL, self._look)
        tell(True)

    def relief(self) -> "asyncio.Future[None] | None":
        """Await what is returned before you publish more to the client; ``None``: nobody has to."""
        # Whoever gives up waiting does so for itself alone.
        return None if self._relief.done() else asyncio.shield(self._relief)

    @property
    def is_over(self) -> bool:
        """Whether nobody waits any more, though the client may be behind still: it does not read."""
        return self._relief.done()

    def end(self) -> None:
        """Let those go on who wait. A second call changes nothing."""
        self._timer.cancel()
        if not self._relief.done():
            self._relief.set_result(None)
            self._tell(False)

    def _look(self) -> None:
        # Next to nothing is added meanwhile, as those who publish to it wait.
        queued = self._queued()
        if self._last - queued < LOOK_BYTES:
            self.end()
        else:
            self._last = queued
            self._timer = asyncio.get_running_loop().call_later(LOOK_INTERVAL, self._look)


def room(limit: int, lag: Lag | None) -> int:
    """How many bytes may wait for a client whose limit is ``limit``."""
    return limit if lag is not None and lag.is_over else BURST_FACTOR * limit
