"""The log of a server that keeps it in the database."""

from typing import ClassVar

from django.db import models


class LogEntry(models.Model):
    """A publication in the log. The broker alone writes it; broker/database/ has the rest."""

    offset = models.BigIntegerField(primary_key=True)
    """Its place in the log."""
    at = models.FloatField()
    """When it was appended, in seconds since the epoch."""
    root = models.CharField(max_length=255, blank=True)
    """The root of ``conf.log_history`` whose bounds are in force for it; empty: none."""
    key = models.CharField(max_length=128, blank=True)
    """Makes it safe to publish it again; empty: none was given."""
    size = models.PositiveIntegerField()
    """The bytes that count for it."""
    data = models.BinaryField()
    """The publication, encoded."""

    class Meta:
        indexes: ClassVar = [models.Index(fields=["root", "offset"], name="dwsps_log_root")]
        verbose_name_plural = "log entries"

    def __str__(self) -> str:
        return str(self.offset)


class LogState(models.Model):
    """How far the log has come, in the only row of its table."""

    epoch = models.CharField(max_length=32)
    """Names one life of the log."""
    offset = models.BigIntegerField(default=0)
    """Of the last publication, kept or not."""
    holder = models.CharField(max_length=64, blank=True)
    """The process that writes: a holder of the lease "log". Every commit looks at it, so that one that has lost the lease
    commits nothing."""
    floors = models.JSONField(default=dict)
    """By root: every publication there after this offset is in the log."""

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"
