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


class Backpressure:
    """Make one when a client falls behind, and ``end`` it when it has caught up or is gone.

    ``outstanding_bytes`` tells how many bytes are on their way to the client, wherever they wait. ``tell`` is called with
    ``True`` at once, and with ``False`` when publishers need not wait any more: at the end or, before that, because the
    client does not read.
    """

    __slots__ = ("_caught_up", "_last", "_outstanding_bytes", "_tell", "_timer")

    def __init__(self, outstanding_bytes: Callable[[], int], tell: Callable[[bool], None]) -> None:
        loop = asyncio.get_running_loop()
        self._outstanding_bytes = outstanding_bytes
        self._tell = tell
        self._caught_up: asyncio.Future[None] = loop.create_future()
        self._last = outstanding_bytes()
        self._timer = loop.call_later(LOOK_INTERVAL, self._look)
        tell(True)

    def caught_up(self) -> "asyncio.Future[None] | None":
        """Await what is returned before you publish more to the client; ``None``: nobody has to."""
        # Whoever gives up waiting does so for itself alone.
        return None if self._caught_up.done() else asyncio.shield(self._caught_up)

    @property
    def is_over(self) -> bool:
        """Whether nobody waits any more, though the client may be behind still: it does not read."""
        return self._caught_up.done()

    def end(self) -> None:
        """Let those go on who wait. A second call changes nothing."""
        self._timer.cancel()
        if not self._caught_up.done():
            self._caught_up.set_result(None)
            self._tell(False)

    def _look(self) -> None:
        # Next to nothing is added meanwhile, as those who publish to it wait.
        outstanding_bytes = self._outstanding_bytes()
        if self._last - outstanding_bytes < LOOK_BYTES:
            self.end()
        else:
            self._last = outstanding_bytes
            self._timer = asyncio.get_running_loop().call_later(LOOK_INTERVAL, self._look)


def room(limit: int, backpressure: Backpressure | None) -> int:
    """How many bytes may wait for a client whose limit is ``limit``."""
    return limit if backpressure is not None and backpressure.is_over else BURST_FACTOR * limit
