"""The memory of whom the last notices were about: their clients may have been looked up just before."""

from collections.abc import Callable
from typing import Final

# Seconds for which a notice is remembered.
MEMORY: Final = 30.0
MAX_MEMORY: Final = 10_000

_EVERYBODY: Final = "everybody"

_NEVER: Final = float("-inf")


class RecentNotices:
    """Knows when a user or a session was last the subject of a notice. A bounded number of them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` returns the time in seconds."""
        self._clock = clock
        # The oldest first, as a rule.
        self._times: dict[str, float] = {}

    def __len__(self) -> int:
        """Return the number of entries in memory."""
        return len(self._times)

    def note(self, *, user: str = "", session: str = "") -> None:
        """Take note of a notice about a user, by primary key, or a session; with neither: about everybody."""
        if user:
            self._note(f"user:{user}")
        elif session:
            self._note(f"session:{session}")
        else:
            self._note(_EVERYBODY)

    def note_disconnect(self, *, user: str = "", session: str = "") -> None:
        """Take note that the connections of a user, or of a session, were closed."""
        self.note(user=user, session=session)
        if user:
            self._note(f"disconnect:{user}")

    def is_about(self, user: str, session: str) -> bool:
        """Return whether there was a notice about this user or session, or about everybody.

        An empty argument stands for no user, or no session.
        """
        keys = _EVERYBODY, f"user:{user}", f"session:{session}"
        latest = max(self._times.get(key, _NEVER) for key in keys)
        return self._clock() - latest < MEMORY

    def was_disconnected(self, user: str, since: float) -> bool:
        """Return whether the connections of a user were closed after ``since``."""
        return self._times.get(f"disconnect:{user}", _NEVER) >= since

    def _note(self, key: str) -> None:
        times = self._times
        times.pop(key, None)
        now = times[key] = self._clock()
        while len(times) > MAX_MEMORY or now - next(iter(times.values())) > MEMORY:
            oldest, at = next(iter(times.items()))
            del times[oldest]
            if now - at <= MEMORY:
                # Too many to know them all.
                times[_EVERYBODY] = now
