"""Backpressure: publishers wait for a client that is behind, as long as it reads."""

import asyncio
from collections.abc import Callable
from typing import Final

# A client that had no time to read yet may have this many times its limit queued: many publishers can bring much at
# once, before they come to wait.
BURST_FACTOR: Final = 4

# Publishers wait for a client that is behind as long as it reads at least so much in each interval. A slower one holds
# nobody up, and is closed once more than its limit is queued.
MIN_PROGRESS_BYTES: Final = 512 * 1024
PROGRESS_INTERVAL: Final = 2.0


def high_water(limit: int) -> int:
    """Return the queued bytes above which a client is behind, of the ``limit`` for it."""
    return limit // 4


def low_water(limit: int) -> int:
    """Return the queued bytes at which a client that was behind has caught up."""
    return limit // 8


class Backpressure:
    """The time for which publishers wait for one client.

    Make one when the client falls behind, and ``end`` it when the client has caught up or is gone.

    Args:
        outstanding_bytes: counts the bytes on their way to the client, queued or in flight.
        tell: called with ``True`` at once, and with ``False`` when publishers need not wait any more: at the end, or
            earlier because the client does not read.
    """

    __slots__ = ("_caught_up", "_last", "_outstanding_bytes", "_tell", "_timer")

    def __init__(self, outstanding_bytes: Callable[[], int], tell: Callable[[bool], None]) -> None:
        loop = asyncio.get_running_loop()
        self._outstanding_bytes = outstanding_bytes
        self._tell = tell
        self._caught_up: asyncio.Future[None] = loop.create_future()
        self._last = outstanding_bytes()
        self._timer = loop.call_later(PROGRESS_INTERVAL, self._check_progress)
        tell(True)

    def caught_up(self) -> "asyncio.Future[None] | None":
        """Await what is returned before you publish more to the client; ``None``: there is no need to."""
        # A publisher that gives up waiting does so for itself alone.
        return None if self._caught_up.done() else asyncio.shield(self._caught_up)

    @property
    def is_over(self) -> bool:
        """Return whether publishers wait no longer. The client may still be behind: then it does not read."""
        return self._caught_up.done()

    def end(self) -> None:
        """Let waiting publishers go on. A second call changes nothing."""
        self._timer.cancel()
        if not self._caught_up.done():
            self._caught_up.set_result(None)
            self._tell(False)

    def _check_progress(self) -> None:
        # Next to nothing is added meanwhile, as those who publish to the client wait.
        outstanding = self._outstanding_bytes()
        if self._last - outstanding < MIN_PROGRESS_BYTES:
            self.end()
        else:
            self._last = outstanding
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(PROGRESS_INTERVAL, self._check_progress)


def max_queued(limit: int, backpressure: Backpressure | None) -> int:
    """Return the bytes that may be queued for a client whose limit is ``limit``."""
    return limit if backpressure is not None and backpressure.is_over else BURST_FACTOR * limit
