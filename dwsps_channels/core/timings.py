"""The timings of connections to peers and of the worker's lease."""

from typing import Annotated

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0)]


class Timings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds, all above 0. The defaults fit servers that are an ocean apart; tests take shorter ones.

    The names are the keys of ``DWSPS["TIMINGS"]``.
    """

    LINK_OPEN_TIMEOUT: Seconds = 10.0
    """How long a link waits for a connection, from the look-up of the name to the end of the handshake."""

    LINK_HEARTBEAT_INTERVAL: Seconds = 20.0
    """How often a link to a peer sends a ping."""

    LINK_HEARTBEAT_TIMEOUT: Seconds = 20.0
    """How long a link waits for the pong before it gives the connection up."""

    LINK_BACKOFF_BASE: Seconds = 0.5
    """The longest pause before a link's first attempt to reconnect. Each further attempt may wait twice as long."""

    LINK_BACKOFF_CAP: Seconds = 30.0
    """The longest pause between two attempts."""

    LINK_ANSWER_TIMEOUT: Seconds = 60.0
    """How long a link waits for an ack before it replaces the connection."""

    LEASE_TIMEOUT: Seconds = 6.0
    """How long the worker's lease lasts without a renewal. Then a standby takes over."""

    LEASE_RENEW_INTERVAL: Seconds = 1.5
    """How often the worker renews its lease, and a standby looks at it. Below ``LEASE_TIMEOUT``."""

    PEER_POLL_INTERVAL: Seconds = 1.0
    """How often the worker reads the rows of peers and writes their states, and the server reads those of accepted peers."""

    def __post_init__(self) -> None:
        # Between two renewals the lease would be free, and a second worker would take it.
        if self.LEASE_RENEW_INTERVAL >= self.LEASE_TIMEOUT:
            raise ValueError("LEASE_RENEW_INTERVAL must be below LEASE_TIMEOUT")
