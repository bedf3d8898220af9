"""Memory of what peers have sent, so that a message that is sent again is not delivered again."""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

MAX_IDS = 65_536
MAX_AGE = 300.0

Key = tuple[str, int]
"""Origin and sequence of a publication."""


class Deduplicator:
    """Remembers keys for ``max_age`` seconds, and at most ``ids`` of each peer: the oldest go first.

    Each peer has a memory of its own, so that none can name another's messages, or have them forgotten.
    """

    def __init__(
        self,
        ids: int = MAX_IDS,
        max_age: float = MAX_AGE,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._ids = ids
        self._max_age = max_age
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
            if len(seen_at) < self._ids and now - seen_at[oldest] < self._max_age:
                break
            del seen_at[oldest]
        if key in seen_at:
            return False
        seen_at[key] = now
        return True

    def has(self, peer: str, key: Key) -> bool:
        """Tell whether ``add`` would recognise ``key``."""
        remembered = self._peers.get(peer)
        seen_at = None if remembered is None else remembered.get(key)
        return seen_at is not None and self._clock() - seen_at < self._max_age

    def _forget_peers(self, now: float) -> None:
        """Forget those that have sent nothing that is to be remembered."""
        for peer, seen_at in list(self._peers.items()):
            if not seen_at or now - next(reversed(seen_at.values())) >= self._max_age:
                del self._peers[peer]

    def __len__(self) -> int:
        return sum(map(len, self._peers.values()))
