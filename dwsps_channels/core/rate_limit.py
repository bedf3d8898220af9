"""The limit on what a connection may send."""

from collections.abc import Callable
from typing import Final

from dwsps_channels.core.limits import Limits
from dwsps_channels.protocol.errors import RateLimited

# A client that is refused may go on for a while: this many times its burst is answered with an error, and what the rate
# allows, before it counts as flooding. Bounds below for those whose rate is low, to which keep-alive pings count too.
SURPLUS_FACTOR: Final = 10
MIN_SURPLUS_FRAMES: Final = 1000
MIN_SURPLUS_RATE: Final = 10.0


class TokenBucket:
    """Allows ``rate`` actions a second in the long run, and ``burst`` at once.

    ``clock`` gives seconds, and never goes backwards.
    """

    __slots__ = ("_burst", "_clock", "_filled_at", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled_at = clock()

    def take(self, count: int = 1) -> bool:
        """Take ``count`` tokens, or all if the bucket is full and has less; ``False``: there were not enough."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < min(count, self._burst):
            return False
        self._tokens -= min(count, self._burst)
        return True


class _Allowance:
    """A bucket for what is handled, and a second one for what is refused with an error."""

    __slots__ = ("_allowed", "_surplus", "is_used_up")

    def __init__(self, allowed: TokenBucket, surplus: TokenBucket) -> None:
        self._allowed = allowed
        self._surplus = surplus
        self.is_used_up = False
        """Set once there is no surplus left."""

    def take(self, count: int) -> bool:
        return self._allowed.take(count) or self.take_surplus(count)

    def take_surplus(self, count: int) -> bool:
        """Count; return ``False``, always: what it counts is not allowed."""
        if not self._surplus.take(count):
            self.is_used_up = True
        return False


class RateLimiter:
    """Counts what one connection sends, in messages and in bytes, against its limits."""

    __slots__ = ("_bytes", "_frames", "_limits")

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._frames = self._bytes = None
        if (rate := limits.rate) is not None:
            surplus = max(SURPLUS_FACTOR * limits.burst, MIN_SURPLUS_FRAMES)
            self._frames = _Allowance(
                TokenBucket(rate, limits.burst, clock),
                TokenBucket(max(rate, MIN_SURPLUS_RATE), surplus, clock),
            )
        if (rate := limits.rate_bytes) is not None:
            burst = limits.burst_bytes
            self._bytes = _Allowance(
                TokenBucket(rate, burst, clock), TokenBucket(rate, SURPLUS_FACTOR * burst, clock)
            )

    @classmethod
    def of(cls, limits: Limits, clock: Callable[[], float]) -> "RateLimiter | None":
        """Make one, if ``limits`` ask for it."""
        return None if limits.rate is limits.rate_bytes is None else cls(limits, clock)

    def flooding(self) -> RateLimited | None:
        """Return the error to close the connection with, if the client has gone on sending although it was refused."""
        if self._frames is not None and self._frames.is_used_up:
            return self._error(of_frames=True)
        if self._bytes is not None and self._bytes.is_used_up:
            return self._error(of_frames=False)
        return None

    def refusal(self, size: int) -> RateLimited | None:
        """Count a message of ``size`` bytes; the error to answer it with, if it is one too many."""
        # Both are asked first: each message counts against both, whatever becomes of it.
        are_few = self._frames is None or self._frames.take(1)
        is_small = self._bytes is None or self._bytes.take(size)
        return None if are_few and is_small else self._error(of_frames=not are_few)

    def count_control(self, size: int) -> None:
        """Count a ping or a pong of ``size`` bytes: against the surplus alone, so that keep-alive costs no message."""
        if self._frames is not None:
            self._frames.take_surplus(1)
        if self._bytes is not None:
            self._bytes.take_surplus(size)

    def _error(self, *, of_frames: bool) -> RateLimited:
        limits = self._limits
        if of_frames:
            assert limits.rate is not None
            return RateLimited(limits.rate)
        assert limits.rate_bytes is not None
        return RateLimited(limits.rate_bytes, "bytes")
