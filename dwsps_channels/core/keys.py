"""Memory of the keys that publishes carry, so that one that is sent again is not published again."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from time import monotonic

from dwsps_channels.core.identity import Identity, Role

MAX_KEYS = 100_000
MAX_AGE = 300.0


_SERVER_PREFIX = "server:"


def server_key(key: str) -> str:
    """Return the key of the server's own code as the broker gets it: it is none of a client's."""
    return _SERVER_PREFIX + key if key else ""


def key_prefix(identity: Identity, user: Hashable | None) -> str:
    """Return how the keys of a client begin for the broker; those of another user, the ``user`` key, begin differently."""
    if identity.role in (Role.WORKER, Role.PUBLISHER):
        return _SERVER_PREFIX
    if identity.role is Role.PEER:
        return f"peer:{identity.peer}:"
    # With its length no user's begins with another's.
    return "anonymous:" if user is None else f"user:{len(str(user))}:{user}:"


class Keys:
    """Remembers the offset of each key for ``max_age`` seconds, and of at most ``keys``: the oldest go first."""

    def __init__(
        self,
        keys: int = MAX_KEYS,
        max_age: float = MAX_AGE,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._keys = keys
        self._max_age = max_age
        self._clock = clock
        # In the order of time, which is that of insertion.
        self._offsets: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def get(self, key: str) -> int | None:
        """Return the offset of the publication that had ``key``; ``None``: there was none, or it is forgotten."""
        known = self._offsets.get(key)
        return None if known is None or self._clock() - known[0] >= self._max_age else known[1]

    def add(self, key: str, offset: int) -> None:
        """Remember ``key``, which ``get`` did not know."""
        now = self._clock()
        offsets = self._offsets
        offsets[key] = now, offset
        offsets.move_to_end(key)
        while len(offsets) > self._keys or now - next(iter(offsets.values()))[0] >= self._max_age:
            offsets.popitem(last=False)

    def __len__(self) -> int:
        return len(self._offsets)
