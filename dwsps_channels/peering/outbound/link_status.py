"""The state of a link, and its counters."""

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct


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


class LinkStats(Struct, frozen=True):
    """The counters of one link since the worker started. All but ``reconnects`` count messages."""

    waiting: int = 0
    """Not sent yet, or to be sent again."""
    in_flight: int = 0
    """Sent, and not acknowledged yet."""
    forwarded: int = 0
    """Sent, each counted once."""
    acked: int = 0
    resent: int = 0
    dropped: int = 0
    """Lost to the peer: the outbox was full, the peer rejected them for good, or ``missed``."""
    missed: int = 0
    """Of those dropped, the ones that the server no longer had when the worker asked for them."""
    reconnects: int = 0
    """The connections that were made, after the first."""

    @property
    def queued(self) -> int:
        """Not acknowledged yet, sent or not."""
        return self.waiting + self.in_flight


class LinkStatus(Struct, frozen=True):
    """A snapshot of one link."""

    state: LinkState = LinkState.CONNECTING
    since: float = 0.0
    """The time at which the state was entered, in seconds since the epoch."""
    last_error: str = ""
    round_trip: float | None = None
    """Seconds, of the last heartbeat."""
    stats: LinkStats = LinkStats()
    cursor: Mapping[str, int] = {}
    """Origin to the sequence of the last message that the peer has acknowledged."""
