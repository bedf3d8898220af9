"""What peers have sent already, so that a message that is sent again is not delivered again."""

from collections.abc import Callable
from time import monotonic

MAX_IDS = 65_536
MAX_SECONDS = 300.0

Key = tuple[str, int | str]
"""Origin and id of a publication."""


class Seen:
    """Remembers keys for ``seconds``, and at most ``ids`` of them: the oldest go first."""

    def __init__(
        self,
        ids: int = MAX_IDS,
        seconds: float = MAX_SECONDS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._ids = ids
        self._seconds = seconds
        self._clock = clock
        # In the order of time, which is that of insertion.
        self._seen_at: dict[Key, float] = {}

    def add(self, key: Key) -> bool:
        """Remember ``key``; ``False``: it was seen before."""
        seen_at = self._seen_at
        now = self._clock()
        while seen_at:
            oldest = next(iter(seen_at))
            if len(seen_at) < self._ids and now - seen_at[oldest] < self._seconds:
                break
            del seen_at[oldest]
        if key in seen_at:
            return False
        seen_at[key] = now
        return True

    def discard(self, key: Key) -> None:
        """Forget ``key``: it was not delivered after all."""
        self._seen_at.pop(key, None)

    def __len__(self) -> int:
        return len(self._seen_at)
