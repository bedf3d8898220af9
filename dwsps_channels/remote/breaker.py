"""A circuit breaker: after a failure one caller at a time finds out whether it works again."""

import threading
from collections.abc import Callable
from time import monotonic


class CircuitBreaker:
    """Tells each caller whether to try. For any number of threads.

    It is closed until a try fails. Then it is open for ``pause`` seconds: nobody is to try. After that one caller is
    let through; the others are not, until that one has reported, or its time is over.
    """

    def __init__(self, pause: float, clock: Callable[[], float] = monotonic) -> None:
        self._pause = pause
        self._clock = clock
        # Held for a comparison and an assignment, never while somebody tries.
        self._lock = threading.Lock()
        self._next_try: float | None = None
        """When the next caller is let through; ``None``: the breaker is closed."""

    def allows(self, timeout: float) -> bool:
        """Return whether to try now. A caller that tries must report within ``timeout`` seconds, or counts as failed."""
        if self._next_try is None:
            return True
        with self._lock:
            next_try, now = self._next_try, self._clock()
            # Another may have reported since.
            if next_try is not None:
                if now < next_try:
                    return False
                self._next_try = now + timeout + self._pause
            return True

    def succeed(self) -> None:
        """Close the breaker: a try has succeeded."""
        self._next_try = None

    def fail(self) -> None:
        """Open the breaker: a try has failed."""
        self._next_try = self._clock() + self._pause
