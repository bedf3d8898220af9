"""The counters of the client connections, for people and for metrics."""

from msgspec import Struct

from dwsps_channels.connections.admission import Admission
from dwsps_channels.connections.handshakes import unanswered
from dwsps_channels.connections.transports.counters import counters


class ConnectionStats(Struct, frozen=True):
    """The counters of this process since its start."""

    refused: int
    """Handshakes rejected because of ``MAX_CONNECTIONS`` or ``MAX_CONNECTIONS_PER_ADDRESS``."""
    unanswered: int
    """Handshakes rejected because nobody could be looked up for the moment."""
    slow_consumers: int
    """Clients that did not read while more than ``MAX_BUFFERED_BYTES`` was queued; closed with 4100."""
    ping_timeouts: int
    """Clients that did not answer a ping; closed with 4101. Only the fast lane counts them."""
    protocol_errors: int
    """Clients that broke RFC 6455 or a limit of the server. Only the fast lane counts them."""


def connection_stats(admission: Admission) -> ConnectionStats:
    """Return the counters as they are now; ``admission``: that of this process."""
    return ConnectionStats(
        refused=admission.refused,
        unanswered=unanswered.rejected,
        slow_consumers=counters.slow_consumers,
        ping_timeouts=counters.ping_timeouts,
        protocol_errors=counters.protocol_errors,
    )
