"""The status of a peer, as the worker writes it."""

from django.db import models

from dwsps_channels.models.peer import Peer


class PeerStatus(models.Model):
    """The status of the link to one peer. The worker alone writes it, every second or so.

    The counters are since the worker started; peering/outbound/link_status.py explains them.
    """

    peer = models.OneToOneField(
        Peer, on_delete=models.CASCADE, primary_key=True, related_name="status"
    )
    state = models.CharField(max_length=16, default="connecting")
    since = models.DateTimeField(null=True)
    """The time at which the state was entered."""
    seen_at = models.DateTimeField(null=True)
    """The time of the worker's last write."""
    last_error = models.CharField(max_length=500, blank=True)
    round_trip = models.FloatField(null=True)
    """In seconds."""
    forwarded = models.PositiveBigIntegerField(default=0)
    acked = models.PositiveBigIntegerField(default=0)
    dropped = models.PositiveBigIntegerField(default=0)
    missed = models.PositiveBigIntegerField(default=0)
    resent = models.PositiveBigIntegerField(default=0)
    reconnects = models.PositiveBigIntegerField(default=0)
    position = models.CharField(max_length=64, blank=True)
    """The cursor of the log up to which the peer has everything, or has refused it for good; empty: none yet."""
    position_at = models.FloatField(default=0.0)
    """The time at which what is there was appended, in seconds since the epoch. If the log does not know the cursor, it is
    read on from this time; 0: from the time at which the peer was enabled."""
    lag = models.PositiveBigIntegerField(default=0)
    """Messages in the log that the peer has not acknowledged. Some may not be for it."""
    oldest_at = models.FloatField(null=True)
    """The time at which the oldest of them was appended, in seconds since the epoch; ``None``: none was read yet."""

    class Meta:
        verbose_name_plural = "peer statuses"

    def __str__(self) -> str:
        return f"status of {self.peer.name}"
