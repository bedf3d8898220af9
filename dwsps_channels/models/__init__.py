"""The database: peers and their statuses, this server's identity, leases, the log, durable messages, and topic rules."""

from dwsps_channels.models.durable_message import DurableMessage, DurableMessageQuerySet
from dwsps_channels.models.lease import Lease
from dwsps_channels.models.log_entry import LogEntry, LogState
from dwsps_channels.models.peer import Peer, PeerQuerySet
from dwsps_channels.models.peer_inbound import PeerInbound
from dwsps_channels.models.peer_status import PeerStatus
from dwsps_channels.models.server_identity import ServerIdentity, server_id
from dwsps_channels.models.topic_rule import TopicRule

__all__ = [
    "DurableMessage",
    "DurableMessageQuerySet",
    "Lease",
    "LogEntry",
    "LogState",
    "Peer",
    "PeerInbound",
    "PeerQuerySet",
    "PeerStatus",
    "ServerIdentity",
    "TopicRule",
    "server_id",
]
