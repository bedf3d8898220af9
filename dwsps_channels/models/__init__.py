"""The database: peers, their status, the identity of this server, and the worker's lease."""

from dwsps_channels.models.peers import (
    Peer,
    PeerQuerySet,
    PeerStatus,
    ServerIdentity,
    WorkerLease,
    server_id,
    validate_topics,
)

__all__ = [
    "Peer",
    "PeerQuerySet",
    "PeerStatus",
    "ServerIdentity",
    "WorkerLease",
    "server_id",
    "validate_topics",
]
