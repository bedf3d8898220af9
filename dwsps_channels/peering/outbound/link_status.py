"""The state of a link, and its counters."""

from enum import StrEnum

from msgspec import Struct

from dwsps_channels.core.page import Position


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
    """Read from the log and not sent yet, or to be sent again."""
    in_flight: int = 0
    """Sent, and not acknowledged yet."""
    forwarded: int = 0
    """Sent, each counted once."""
    acked: int = 0
    resent: int = 0
    dropped: int = 0
    """Lost to the peer: it rejected them for good, or ``missed``."""
    missed: int = 0
    """Of those dropped, the ones that the log no longer had when the worker read on."""
    reconnects: int = 0
    """The connections that were made, after the first."""


class LinkStatus(Struct, frozen=True):
    """A snapshot of one link."""

    state: LinkState = LinkState.CONNECTING
    since: float = 0.0
    """The time at which the state was entered, in seconds since the epoch."""
    last_error: str = ""
    round_trip: float | None = None
    """Seconds, of the last heartbeat."""
    stats: LinkStats = LinkStats()
    position: Position = Position()
    """The place in the log up to which the peer has everything that is for it, or has refused it for good."""
    lag: int = 0
    """Messages in the log that the peer has not acknowledged. Those that were not read yet need not be for it."""
    oldest_at: float | None = None
    """The time at which the oldest of them entered the log, in seconds since the epoch; ``None``: none was read."""
