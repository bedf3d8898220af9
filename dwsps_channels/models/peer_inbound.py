"""The connections of peers to this server, as its processes report them."""

from datetime import timedelta
from typing import ClassVar

from django.db import models
from django.utils import timezone

from dwsps_channels.models.peer import Peer

HEARTBEAT_INTERVAL = 20.0
"""A process writes a row at least this often, in seconds, while the peer is connected to it."""
ALIVE_TIMEOUT = timedelta(seconds=3 * HEARTBEAT_INTERVAL)
"""A row that says it is connected, and was not written for this time, is of a process that died."""
RETENTION = timedelta(days=1)
"""How long a row is kept after it was last written."""


class PeerInboundQuerySet(models.QuerySet["PeerInbound"]):
    """Reports of processes, running or not."""

    def kept(self) -> "PeerInboundQuerySet":
        """Select what is not too old."""
        return self.filter(seen_at__gt=timezone.now() - RETENTION)

    def purge(self) -> None:
        """Delete what is too old."""
        self.filter(seen_at__lte=timezone.now() - RETENTION).delete()

    purge.alters_data = True  # type: ignore[attr-defined]


class PeerInbound(models.Model):
    """The connections of one peer to one process of this server, and what came over them.

    The counters are since the process started. Each message that the peer sent counts in one of them.
    """

    peer = models.ForeignKey(Peer, on_delete=models.CASCADE, related_name="inbound")
    process = models.CharField(max_length=64)
    """The run of the process."""
    connections = models.PositiveIntegerField(default=0)
    """The number of open connections, when the row was written."""
    address = models.CharField(max_length=64, blank=True)
    """The address that the newest connection came from."""
    received = models.PositiveBigIntegerField(default=0)
    """Messages that were taken."""
    duplicates = models.PositiveBigIntegerField(default=0)
    """Messages that had come before, and were dropped."""
    refused = models.PositiveBigIntegerField(default=0)
    """Messages that were answered with an error. The peer sends most of them again."""
    since = models.DateTimeField(null=True)
    """The time since which the peer has been connected to the process; ``None``: it is not."""
    seen_at = models.DateTimeField(null=True)
    """The time of the process's last write."""

    objects = PeerInboundQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["peer", "process"], name="dwsps_peer_inbound_process")
        ]
        verbose_name = "inbound status"
        verbose_name_plural = "inbound statuses"

    def __str__(self) -> str:
        return f"{self.peer.name} at {self.process}"

    @property
    def is_connected(self) -> bool:
        """Return whether the peer is connected to the process, which is alive."""
        return (
            self.connections > 0
            and self.seen_at is not None
            and timezone.now() - self.seen_at < ALIVE_TIMEOUT
        )
