"""How a link is."""

from dataclasses import dataclass, field
from enum import StrEnum


class State(StrEnum):
    """What a link is at."""

    DISABLED = "disabled"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    BACKING_OFF = "backing_off"
    """The peer cannot be reached, or went away; it is tried again."""
    REFUSED = "refused"
    """The peer does not let us in; it is tried again."""
    LOOP = "loop"
    """It leads to this server itself, or where another link leads; it is not used."""


@dataclass(slots=True)
class PeerHealth:
    """What the worker tells of one link. Counts are of messages, since the worker started."""

    state: State = State.CONNECTING
    since: float = 0.0
    """When the state was entered, in seconds since the epoch."""
    last_error: str = ""
    round_trip: float | None = None
    """Seconds, of the last heartbeat."""
    forwarded: int = 0
    """Sent, each counted once."""
    acked: int = 0
    queued: int = 0
    """Waiting for an ack, sent or not."""
    dropped: int = 0
    """Never to be sent: the outbox was full, or the peer refused them for good."""
    resent: int = 0
    cursor: dict[str, int] = field(default_factory=dict)
    """For each origin the sequence of the last message that the peer has acknowledged."""
