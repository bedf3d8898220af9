"""Slows down those who try credentials: the more often an address failed, the longer it waits for the answer."""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

FREE = 3
"""So many failures cost nothing: somebody mistyped a secret."""
FIRST_SECONDS = 0.25
MAX_SECONDS = 5.0
FORGOTTEN_SECONDS = 300.0
MAX_ADDRESSES = 10_000


class Failures:
    """Counts by address; forgets an address that did not fail for five minutes, and the oldest when there are many."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        # address -> how often, and when last; the latest last.
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def add(self, address: str) -> float:
        """Count a failure; the number of seconds to wait before it is answered."""
        now = self._clock()
        count, last = self._counts.pop(address, (0, now))
        count = 1 if now - last > FORGOTTEN_SECONDS else count + 1
        self._counts[address] = (count, now)
        if len(self._counts) > MAX_ADDRESSES:
            self._counts.popitem(last=False)
        # The exponent is bounded, so that the power is.
        return (
            0.0
            if count <= FREE
            else min(MAX_SECONDS, FIRST_SECONDS * 2.0 ** min(count - FREE - 1, 10))
        )
