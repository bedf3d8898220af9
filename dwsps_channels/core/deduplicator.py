"""Memory of what peers have sent, so that a message that is sent again is not delivered again."""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

MAX_IDS = 65_536
MAX_AGE = 300.0

NEWEST_IDS = 4096
"""More than a peer sends again after an outage: what was in flight, or acknowledged since its worker last wrote how far it is."""
NEWEST_MAX_AGE = 86_400.0

Key = tuple[str, int]
"""Origin and sequence of a publication."""


class Deduplicator:
    """Remembers keys for ``max_age`` seconds, and at most ``ids`` of each peer: the oldest go first.

    It remembers the ``newest`` of each peer for ``newest_max_age`` seconds: a peer that was away for long begins with what
    it sent last.

    Each peer has a memory of its own, so that none can name another's messages, or have them forgotten.
    """

    def __init__(
        self,
        ids: int = MAX_IDS,
        max_age: float = MAX_AGE,
        clock: Callable[[], float] = monotonic,
        *,
        newest: int = NEWEST_IDS,
        newest_max_age: float = NEWEST_MAX_AGE,
    ) -> None:
        self._ids = ids
        self._max_age = max_age
        self._newest = newest
        self._newest_max_age = newest_max_age
        self._clock = clock
        # By peer, each in the order of time, which is that of insertion. (A dict looks for its first key past all that
        # were deleted before it.)
        self._peers: dict[str, OrderedDict[Key, float]] = {}

    def add(self, peer: str, key: Key) -> bool:
        """Remember that ``peer`` has sent ``key``; ``False``: it was seen before."""
        now = self._clock()
        seen_at = self._peers.get(peer)
        if seen_at is None:
            self._forget_peers(now)
            seen_at = self._peers[peer] = OrderedDict()
        while seen_at:
            oldest = next(iter(seen_at))
            max_age = self._max_age if len(seen_at) > self._newest else self._newest_max_age
            if len(seen_at) < self._ids and now - seen_at[oldest] < max_age:
                break
            del seen_at[oldest]
        if key in seen_at:
            return False
        seen_at[key] = now
        return True

    def has(self, peer: str, key: Key) -> bool:
        """Tell whether it remembers that ``peer`` has sent ``key``. It may forget that with the next ``add``."""
        return key in self._peers.get(peer, ())

    def _forget_peers(self, now: float) -> None:
        """Forget those that have sent nothing that is to be remembered."""
        for peer, seen_at in list(self._peers.items()):
            if not seen_at or now - next(reversed(seen_at.values())) >= self._newest_max_age:
                del self._peers[peer]

    def __len__(self) -> int:
        return sum(map(len, self._peers.values()))
