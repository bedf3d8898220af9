"""The pages of peers and of durable messages in Django's admin."""

from dwsps_channels.admin.durable import DurableMessageAdmin
from dwsps_channels.admin.peers import PeerAdmin

__all__ = ["DurableMessageAdmin", "PeerAdmin"]
