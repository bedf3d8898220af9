"""The inbound half of a peer: its connections and messages, as the processes of this server write them."""

from typing import ClassVar

from django.db import models

from dwsps_channels.models.peer import Peer


class PeerInbound(models.Model):
    """The connections of one peer to one process of this server, and what came over them."""

    peer = models.ForeignKey(Peer, on_delete=models.CASCADE, related_name="inbound")
    process = models.CharField(max_length=64)
    """The run of the process."""
    connections = models.PositiveIntegerField(default=0)
    """That are open."""
    received = models.PositiveBigIntegerField(default=0)
    """Messages that were taken."""
    duplicates = models.PositiveBigIntegerField(default=0)
    """Messages that had come before."""
    refused = models.PositiveBigIntegerField(default=0)
    """Messages that were not taken."""
    since = models.DateTimeField(null=True)
    """When the oldest connection that is open began."""
    seen_at = models.DateTimeField(null=True)
    """When the process last wrote this."""

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["peer", "process"], name="dwsps_peer_inbound_process")
        ]
        verbose_name = "inbound status"
        verbose_name_plural = "inbound statuses"

    def __str__(self) -> str:
        return f"{self.peer.name} at {self.process}"
