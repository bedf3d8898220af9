"""The state of a link, and its counters."""

from dataclasses import dataclass, field
from enum import StrEnum


class LinkState(StrEnum):
    """The stage that a link is in."""

    DISABLED = "disabled"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    BACKING_OFF = "backing_off"
    """The peer is unreachable, or went away; the link retries."""
    REFUSED = "refused"
    """The peer does not accept us; the link retries."""
    LOOP = "loop"
    """The peer is this server itself, or one that another link leads to; the link is not used."""

    @property
    def label(self) -> str:
        """The state for people."""
        return self.value.replace("_", " ")


@dataclass(slots=True)
class LinkStatus:
    """A snapshot of one link. Counts are of messages, since the worker started."""

    state: LinkState = LinkState.CONNECTING
    since: float = 0.0
    """The time at which the state was entered, in seconds since the epoch."""
    last_error: str = ""
    round_trip: float | None = None
    """Seconds, of the last heartbeat."""
    forwarded: int = 0
    """Sent, each counted once."""
    acked: int = 0
    queued: int = 0
    """Not acknowledged yet, sent or not."""
    dropped: int = 0
    """Lost to the peer: the outbox was full, the peer rejected them for good, or the server no longer had them."""
    resent: int = 0
    cursor: dict[str, int] = field(default_factory=dict)
    """Origin to the sequence of the last message that the peer has acknowledged."""
