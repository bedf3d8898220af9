"""The database: peers and their statuses, the identity of this server, and the worker's lease."""

from dwsps_channels.models.peer import Peer, PeerQuerySet
from dwsps_channels.models.peer_status import PeerStatus
from dwsps_channels.models.server_identity import ServerIdentity, server_id
from dwsps_channels.models.worker_lease import WorkerLease

__all__ = [
    "Peer",
    "PeerQuerySet",
    "PeerStatus",
    "ServerIdentity",
    "WorkerLease",
    "server_id",
]
