"""What the processes of a server tell each other of senders that are none of them.

A process that publishes from outside sends no heartbeats. If its last message is lost on the way to one process, or its only
one, no later number tells. So the processes that have it say so in their own heartbeats, for a while.
"""

from typing import Final

from dwsps_channels.bus.batch import Batch, Numbers
from dwsps_channels.bus.senders import Senders

OUTSIDE: Final = "sender:"
"""How the name of a sender begins that is no process of the server."""

# For how many seconds a sender is told of after it was last heard: longer than connections take to be made anew.
TELL_FOR: Final = 60.0

# Of how many senders: some 10 KB of a heartbeat. Those that were heard last.
MAX_TOLD: Final = 128

# How long a message may take that another process has already: through the core layer of channels-redis each process has
# messages in the order of the senders' clocks.
PATIENCE: Final = 3.0


class Gossip:
    """One process's part of it. ``now`` is in seconds, of a clock that does not go back."""

    def __init__(self, senders: Senders, now: float) -> None:
        self._senders = senders
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
        """What to tell the others: of each sender the first of its numbers that came, and the one that comes next."""
        while self._heard:
            sender, (_, heard_at) = next(iter(self._heard.items()))
            if now - heard_at < TELL_FOR:
                break
            del self._heard[sender]
        return {sender: numbers for sender, (numbers, _) in self._heard.items()}

    def listen(self, heard: dict[str, Numbers], now: float) -> None:
        """Take what another process tells."""
        for sender, (first, after) in heard.items():
            if sender not in self._senders:
                # It may have been gone before this process came.
                if now - self._since < TELL_FOR + PATIENCE:
                    continue
                self._senders.expect(sender, first, now)
            if self._senders.next_number(sender) < after:
                known, since = self._missing.get(sender, (0, now))
                self._missing[sender] = (max(known, after), since)

    def check(self, now: float) -> None:
        """Count and log as missed what others have had for long enough."""
        for sender, (after, since) in list(self._missing.items()):
            if now - since >= PATIENCE:
                del self._missing[sender]
                self._senders.miss_up_to(sender, after, now)
