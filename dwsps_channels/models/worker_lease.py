"""The lease that makes one worker at a time forward."""

from django.db import models


class WorkerLease(models.Model):
    """A lease and its holder. peering/lease.py takes, renews and releases it."""

    name = models.CharField(max_length=64, primary_key=True)
    holder = models.CharField(max_length=64, blank=True)
    expires_at = models.DateTimeField()
    """By the database's clock."""

    def __str__(self) -> str:
        return self.name
