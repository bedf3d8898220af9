"""News of senders outside, which the processes of a server pass on to each other.

A process that publishes from outside sends no heartbeats. If its last message, or its only one, is lost on the way to one
process, no later number shows it. So the processes that have it say so in their own heartbeats, for a while.
"""

from typing import Final

from dwsps_channels.broker.channel_layer.batch import Batch, Numbers
from dwsps_channels.broker.channel_layer.gap_detector import GapDetector

OUTSIDE: Final = "sender:"
"""The prefix of the names of senders that are no processes of the server."""

# For how many seconds a sender is mentioned after it was last heard: longer than reconnecting takes.
TELL_FOR: Final = 60.0

# How many senders a heartbeat mentions, those heard last: some 10 KB.
MAX_TOLD: Final = 128

# How long a message may take that another process has already: through the core layer of channels-redis each process has
# messages in the order of the senders' clocks.
ARRIVAL_TIMEOUT: Final = 3.0


class Gossip:
    """One process's part of it. ``now`` is in seconds, of a clock that does not go back."""

    def __init__(self, detector: GapDetector, now: float) -> None:
        self._detector = detector
        self._since = now
        # sender -> what was heard of it, and when last; the longest unheard first
        self._heard: dict[str, tuple[Numbers, float]] = {}
        # sender -> up to which number others have heard of it, and since when that is known
        self._missing: dict[str, tuple[int, float]] = {}

    def hear(self, batch: Batch, now: float) -> None:
        """Remember what came."""
        if not batch.sender.startswith(OUTSIDE):
            return
        after = batch.first + len(batch.publications)
        (first, _), _ = self._heard.pop(batch.sender, ((batch.first, after), now))
        self._heard[batch.sender] = ((first, after), now)
        while len(self._heard) > MAX_TOLD:
            del self._heard[next(iter(self._heard))]

    def tell(self, now: float) -> dict[str, Numbers]:
        """Return, for each sender, the first of its numbers that came and the one that comes next, to tell the others."""
        while self._heard:
            sender, (_, heard_at) = next(iter(self._heard.items()))
            if now - heard_at < TELL_FOR:
                break
            del self._heard[sender]
        return {sender: numbers for sender, (numbers, _) in self._heard.items()}

    def listen(self, heard: dict[str, Numbers], now: float) -> None:
        """Take what another process tells."""
        for sender, (first, after) in heard.items():
            if sender not in self._detector:
                # It may have been gone before this process came.
                if now - self._since < TELL_FOR + ARRIVAL_TIMEOUT:
                    continue
                self._detector.expect(sender, first, now)
            if self._detector.next_number(sender) < after:
                known, since = self._missing.get(sender, (0, now))
                self._missing[sender] = (max(known, after), since)

    def check(self, now: float) -> None:
        """Count and log as missed what others have had for long enough."""
        for sender, (after, since) in list(self._missing.items()):
            if now - since >= ARRIVAL_TIMEOUT:
                del self._missing[sender]
                self._detector.miss_up_to(sender, after, now)
