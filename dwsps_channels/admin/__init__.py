"""The pages of peers in Django's admin."""

from dwsps_channels.admin.peers import PeerAdmin

__all__ = ["PeerAdmin"]
