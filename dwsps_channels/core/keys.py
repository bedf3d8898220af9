"""Memory of the keys that publishes carry, so that one that is sent again is not published again."""

from collections.abc import Callable, Hashable
from time import monotonic

from dwsps_channels.core.identity import Identity, Role

MAX_KEYS = 100_000
MAX_AGE = 300.0

DURABLE_MAX_AGE = 86_400.0
"""The same for durable messages, which wait in a database and may be published again much later."""

DURABLE_PREFIX = "durable:"
"""The beginning of their keys."""

_SERVER_PREFIX = "server:"
DURABLE_KEYS = _SERVER_PREFIX + DURABLE_PREFIX
"""The same as brokers get it."""


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
    """Remembers the offset of each key for ``max_age`` seconds at least, and for three times as long at most.

    It remembers ``keys`` of them at most, and the newest half of these always. Those of durable messages are apart, as
    many, for ``durable_max_age`` seconds; ``None``: they are not.
    """

    def __init__(
        self,
        keys: int = MAX_KEYS,
        max_age: float = MAX_AGE,
        clock: Callable[[], float] = monotonic,
        *,
        durable_max_age: float | None = DURABLE_MAX_AGE,
    ) -> None:
        self._half = max(1, keys // 2)
        self._max_age = max_age
        self._clock = clock
        # Two generations, so that forgetting takes no look at single keys: our own clients send one with each publish.
        self._recent: dict[str, int] = {}
        self._older: dict[str, int] = {}
        # The time at which the recent generation began.
        self._began = clock()
        self._durable: Keys | None = None
        if durable_max_age is not None:
            self._durable = Keys(keys, durable_max_age, clock, durable_max_age=None)

    def get(self, key: str) -> int | None:
        """Return the offset of the publication that had ``key``; ``None``: there was none, or it is forgotten."""
        if key not in self._recent and key not in self._older:
            if self._durable is None or not key.startswith(DURABLE_KEYS):
                return None
            return self._durable.get(key)
        self._turn()
        offset = self._recent.get(key)
        return self._older.get(key) if offset is None else offset

    def add(self, key: str, offset: int) -> None:
        """Remember ``key``, which ``get`` did not know."""
        if self._durable is not None and key.startswith(DURABLE_KEYS):
            self._durable.add(key, offset)
            return
        if len(self._recent) >= self._half or self._clock() - self._began >= self._max_age:
            self._turn()
        self._recent[key] = offset

    def _turn(self) -> None:
        """Begin another generation, if it is time."""
        now = self._clock()
        if now - self._began >= 2 * self._max_age:
            self._recent, self._older, self._began = {}, {}, now
        elif now - self._began >= self._max_age or len(self._recent) >= self._half:
            self._recent, self._older, self._began = {}, self._recent, now

    def __len__(self) -> int:
        durable = 0 if self._durable is None else len(self._durable)
        return len(self._recent) + len(self._older) + durable
