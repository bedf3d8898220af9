"""The gate in front of what is sent: a worker that was stopped for long may have lost its lease meanwhile."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

logger = logging.getLogger("dwsps_channels.worker")

LONGEST_STOP: Final = 1.0
"""Seconds without a sign of life after which a process counts as stopped: by SIGSTOP, or with its machine."""


def _seconds() -> float:
    """Return the time by a clock that goes on while the process is stopped and, if there is one, while the machine sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


class SendGate:
    """Open while this worker may send. It closes if the process was stopped and the lease has ended meanwhile.

    Run ``watch`` beside the sending. Call ``verify`` whenever the lease was renewed, and ``fail`` if it could not be.
    Without a stop it stays open: while the database is away, no other worker can take the lease.
    """

    def __init__(self, lease: float, clock: Callable[[], float] = _seconds) -> None:
        """Begin open. ``lease`` is how long a renewal lasts, in seconds."""
        self.now = clock
        """The time, for ``verify``."""
        self._lease = lease
        self._longest_stop = min(LONGEST_STOP, lease / 4)
        # The times of the last sign of life, of the start of the last renewal, and of the closing.
        self._seen_at = self._verified_at = self._closed_at = clock()
        self._was_stopped = False
        self._opened = asyncio.Event()
        self._opened.set()

    @property
    def is_open(self) -> bool:
        """True if a message may be sent now."""
        now = self.now()
        if now - self._seen_at > self._longest_stop:
            self._was_stopped = True
        self._seen_at = now
        if self._was_stopped and now - self._verified_at >= self._lease and self._opened.is_set():
            self._closed_at = now
            self._opened.clear()
            logger.warning(
                "this process was stopped for longer than its lease lasts; sending waits until the lease is verified"
            )
        return self._opened.is_set()

    async def opened(self) -> None:
        """Wait until it is open."""
        while not self.is_open:
            await self._opened.wait()

    def verify(self, asked_at: float) -> None:
        """Note that the lease was ours at some time after ``asked_at``, by ``now``."""
        _ = self.is_open  # a stop before this counts no more
        if self.now() - asked_at < self._lease:
            self._verified_at = asked_at
            self._open()

    def fail(self) -> None:
        """Note that the lease could not be renewed. If that goes on for as long as a lease, sending goes on as well."""
        if self.is_open or self.now() - self._closed_at < self._lease:
            # The first attempt after a stop may have failed because the connection to the database was lost by it.
            return
        self._open()

    def _open(self) -> None:
        self._was_stopped = False
        self._opened.set()

    async def watch(self) -> None:
        """Notice that the process was stopped, until cancelled."""
        while True:
            await asyncio.sleep(self._longest_stop / 4)
            _ = self.is_open
