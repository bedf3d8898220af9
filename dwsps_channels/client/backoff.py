"""The delays before reconnecting (docs/reference/protocol.md, "Closing")."""

import random
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from dwsps_channels.protocol.close_codes import CloseCode

# The ceiling of the last delays. The JavaScript client has the same.
MAX_DELAY: Final = 20.0


class Return(Enum):
    """The action that a client takes after a close code."""

    NEVER = auto()
    WITH_BACKOFF = auto()
    AT_ONCE = auto()

    @classmethod
    def after(cls, code: int | None) -> "Return":
        """Return the action for the range of a close code; ``None``: there was no connection."""
        if code is not None and 4000 <= code <= 4099:
            return cls.NEVER
        if code is not None and 4200 <= code <= 4299:
            return cls.AT_ONCE
        return cls.WITH_BACKOFF


class Backoff:
    """Full jitter: random delays below a ceiling that doubles, so that many clients do not reconnect at once.

    Call ``opened`` for each connection that was made, ``delay`` for each that is lost or could not be made, and
    ``progressed`` once a connection has been useful, however short it may be.
    """

    def __init__(
        self,
        base: float = 0.5,
        cap: float = MAX_DELAY,
        *,
        stable_after: float = 10.0,
        renews_token: bool = False,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """
        Args:
            base: the ceiling of the first delay, in seconds; ``cap`` is that of the last one.
            stable_after: after a connection that lasted so many seconds, delays start again.
            renews_token: the next connection has another token: it is made after ``UNAUTHORIZED``, too, but only once until
                a connection was as stable as that.
            uniform: returns a random number from 0 to 1.
        """
        self.attempt = 0
        """Number of delays since the last good connection."""
        self._base = base
        self._cap = cap
        self._stable_after = stable_after
        self._clock = clock
        self._uniform = uniform
        self._opened_at: float | None = None
        # Whether one of those delays was none: a server that always says "at once" is not to be hammered.
        self._hurried = False
        self._renews_token = renews_token
        self._renewed = False

    def opened(self) -> None:
        """Note that a connection was made."""
        self._opened_at = self._clock()

    def progressed(self) -> None:
        """Note that the connection has been useful: delays start again. "At once" remains a delay until one has lasted."""
        self.attempt = 0

    def delay(self, code: int | None = None) -> float | None:
        """Return the seconds to wait before the next attempt; ``None``: do not reconnect.

        ``code`` is the close code of the lost connection, ``None`` if none could be made.
        """
        opened_at, self._opened_at = self._opened_at, None
        if opened_at is not None and self._clock() - opened_at >= self._stable_after:
            self.attempt = 0
            self._hurried = self._renewed = False
        action = Return.after(code)
        if action is Return.NEVER:
            if code != CloseCode.UNAUTHORIZED or not self._renews_token or self._renewed:
                return None
            self._renewed = True
        delay = 0.0
        if action is not Return.AT_ONCE or self._hurried:
            delay = self.jitter(self.attempt)
        self._hurried = self._hurried or action is Return.AT_ONCE
        self.attempt += 1
        return delay

    def jitter(self, attempt: int) -> float:
        """Return a random delay below the ceiling of that attempt, counted from 0."""
        return self._uniform() * self._ceiling(attempt)

    def pause(self, attempt: int) -> float:
        """Return a random delay of at least half that ceiling: for a client that was asked to slow down."""
        return self._ceiling(attempt) * (1 + self._uniform()) / 2

    def _ceiling(self, attempt: int) -> float:
        # The exponent is bounded: a float holds no more than 2.0 ** 1023.
        return min(self._cap, self._base * 2.0 ** min(attempt, 64))
