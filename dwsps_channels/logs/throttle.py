"""A limit on how often the same line is logged."""

from collections.abc import Callable
from time import monotonic
from typing import Final

INTERVAL: Final = 60.0
"""Seconds between two lines about the same thing: a flood must not fill the log."""
MAX_KEYS: Final = 10_000


class LogThrottle:
    """Tells whether a line is due: the first time at once, then once in each ``interval`` (seconds).

    ``clock`` gives seconds, and does not go back. Nothing is kept per call, only per key, which is hashable: for the
    ``MAX_KEYS`` that were logged last.
    """

    __slots__ = ("_clock", "_interval", "_logged")

    def __init__(self, interval: float = INTERVAL, clock: Callable[[], float] = monotonic) -> None:
        self._interval = interval
        self._clock = clock
        # When each kind of line was logged last; the latest last.
        self._logged: dict[object, float] = {}

    def is_due(self, key: object = None) -> bool:
        """Return whether to log a line of the kind ``key`` now; if so, count it as logged."""
        now = self._clock()
        last = self._logged.get(key)
        if last is not None and now - last < self._interval:
            return False
        self._logged.pop(key, None)
        self._logged[key] = now
        if len(self._logged) > MAX_KEYS:
            del self._logged[next(iter(self._logged))]
        return True
