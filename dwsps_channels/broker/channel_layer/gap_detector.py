"""Detection of what a process misses of the others, or gets twice."""

import logging
from typing import Final

from dwsps_channels.broker.channel_layer.batch import Batch
from dwsps_channels.core.publication import Publication

logger = logging.getLogger("dwsps_channels.broker")

# A server has far fewer processes. It bounds what a flood of invented senders can cost: 1024 entries.
MAX_SENDERS: Final = 1024

# Long enough for a process that was cut off to be met again with what was missed of it known.
FORGET_AFTER: Final = 3600.0


class GapDetector:
    """Keeps how far each sender has come, by the numbers in its batches."""

    def __init__(self) -> None:
        self.gaps = 0
        """Number of times that messages were missed."""
        self.missed = 0
        """Number of messages that were missed."""
        # sender -> (the number that comes next, when it was last heard), the longest unheard first
        self._next: dict[str, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._next)

    def __contains__(self, sender: str) -> bool:
        return sender in self._next

    def accept(self, batch: Batch, now: float) -> list[Publication]:
        """Return what of ``batch`` is new. ``now`` is in seconds, by a clock that does not go back.

        What is missed, in a gap before it or because it cannot be read, is counted, and logged at WARNING. What comes
        after its gap was counted is late: not new.
        """
        after = batch.first + len(batch.publications)
        # A sender not heard before is met where it is: one that joins late has missed nothing.
        expected, _ = self._next.pop(batch.sender, (batch.first, now))
        self._next[batch.sender] = (max(expected, after), now)
        self._forget(now)
        if batch.first > expected:
            self._report(batch, expected)
        new = batch.publications[max(0, expected - batch.first) :]
        readable = [publication for publication in new if publication is not None]
        if len(readable) < len(new):
            self._report_unreadable(batch, len(new) - len(readable))
        return readable

    def next_number(self, sender: str) -> int:
        """Return the number that comes next from a sender that is known."""
        return self._next[sender][0]

    def expect(self, sender: str, number: int, now: float) -> None:
        """Take it that ``number`` comes next from ``sender``, as others say."""
        self._next[sender] = (number, now)
        self._forget(now)

    def miss_up_to(self, sender: str, number: int, now: float) -> None:
        """Count and log as missed the numbers before ``number`` that have not come."""
        expected, _ = self._next.pop(sender, (number, now))
        self._next[sender] = (max(expected, number), now)
        if number > expected:
            self._count_gap(number - expected)
            logger.warning(
                "missed %d messages of process %s, which other processes have; %d missed since the start",
                number - expected,
                sender,
                self.missed,
            )

    def _count_gap(self, missed: int) -> None:
        self.gaps += 1
        self.missed += missed

    def _report_unreadable(self, batch: Batch, count: int) -> None:
        self.missed += count
        logger.warning(
            "missed %d messages of process %s, as they cannot be read: %s; %d missed since the start",
            count,
            batch.sender,
            batch.problem,
            self.missed,
        )

    def _report(self, batch: Batch, expected: int) -> None:
        missed = batch.first - expected
        self._count_gap(missed)
        logger.warning(
            "missed %d messages of process %s: number %d came instead of %d; %d missed since the start",
            missed,
            batch.sender,
            batch.first,
            expected,
            self.missed,
        )

    def _forget(self, now: float) -> None:
        while self._next:
            sender, (_, heard) = next(iter(self._next.items()))
            if len(self._next) <= MAX_SENDERS and now - heard < FORGET_AFTER:
                break
            del self._next[sender]
