"""The messages that ``publish`` could not send, as the log tells of them: with their number, not one by one."""

import atexit
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Final

from dwsps_channels.logs.throttle import LogThrottle
from dwsps_channels.protocol.text import printable
from dwsps_channels.publishing.publisher import OutgoingMessage

logger = logging.getLogger("dwsps_channels.publishing")

# Seconds between two lines. What is lost in between is in the next.
REPORT_INTERVAL: Final = 10.0

# In one line: the most frequent.
MAX_PROBLEMS: Final = 3


class FailureCounter:
    """Counts, and logs at WARNING: the first at once, then every ten seconds, and what is left when the process ends."""

    def __init__(self, line: str, clock: Callable[[], float] = monotonic) -> None:
        """Log ``line``, filled in with the new messages, those since the start, and the problems."""
        self.total = 0
        """Messages since the start."""
        self._line = line
        self._clock = clock
        self._lock = threading.Lock()
        self._unreported = 0
        self._problems: Counter[str] = Counter()
        self._throttle = LogThrottle(REPORT_INTERVAL, clock)

    def add(self, problem: str) -> None:
        """Count one more, because of ``problem``."""
        with self._lock:
            self.total += 1
            self._unreported += 1
            self._problems[problem] += 1
        self.report_if_due()

    def report_if_due(self) -> None:
        """Log what was not logged yet, unless the last line is too recent."""
        if self._unreported and self._throttle.is_due():
            self.report()

    def report(self) -> None:
        """Log what was not logged yet."""
        with self._lock:
            count, self._unreported = self._unreported, 0
            problems, self._problems = self._problems, Counter()
            total = self.total
        if count:
            logger.warning(
                self._line,
                count,
                total,
                ", ".join(
                    f"{printable(problem)} ({each})"
                    for problem, each in problems.most_common(MAX_PROBLEMS)
                ),
            )

    def forget(self) -> None:
        """Begin again: in a forked process, whose parent tells of its own."""
        self.__init__(self._line, self._clock)  # type: ignore[misc]


losses = FailureCounter("publish() lost messages: %d, %d since the start: %s")
"""The messages that this process has lost."""

delays = FailureCounter("publish() left durable messages to the worker: %d, %d since the start: %s")
"""The durable messages that this process could not send: they wait in the database."""

for counter in (losses, delays):
    atexit.register(counter.report)
    os.register_at_fork(after_in_child=counter.forget)


def count_loss(message: OutgoingMessage, problem: str) -> None:
    """Count ``message`` as lost because of ``problem``, unless it is durable."""
    if not message.durable_id:
        losses.add(problem)
