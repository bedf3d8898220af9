"""Leases: of the processes that want to do something, one at a time may."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

from django.db import models
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

if TYPE_CHECKING:
    LeaseManagerBase = models.Manager["Lease"]
else:
    LeaseManagerBase = models.Manager


class LeaseManager(LeaseManagerBase):
    """Takes, extends and releases leases by their names.

    Only the database's clock counts, as those of processes may differ. Every method queries the database: call it in a
    thread.
    """

    def acquire(self, name: str, holder: str, seconds: float, *, instead_of: str = "") -> bool:
        """Take the lease for ``seconds`` if it is free, or extend it; return whether ``holder`` has it now.

        ``instead_of`` is a holder that is known to be gone: its lease counts as free.
        """
        free = Q(holder=holder) | Q(expires_at__lte=Now())
        if instead_of:
            free |= Q(holder=instead_of)
        # One statement, so that of two concurrent attempts the second sees the result of the first.
        if self.filter(free, name=name).update(**_held(holder, seconds)):
            return True
        _, is_created = self.get_or_create(name=name, defaults=_held(holder, seconds))
        return is_created

    def renew(self, name: str, holder: str, seconds: float) -> bool:
        """Extend the lease for ``seconds`` from now; return ``False`` if another has taken it.

        One that has ended is extended as well, unless another has taken it since.
        """
        return bool(self.filter(name=name, holder=holder).update(**_held(holder, seconds)))

    def release(self, name: str, holder: str) -> None:
        """Give the lease back if ``holder`` has it, so that another need not wait for its end."""
        self.filter(name=name, holder=holder).update(holder="", expires_at=Now())

    def expiry(self, name: str) -> datetime | None:
        """Return the end of the lease, past or future; ``None``: nobody ever had it. A running holder extends it."""
        return self.filter(name=name).values_list("expires_at", flat=True).first()

    def held(self, name: str) -> "QuerySet[Lease]":
        """Select the lease if somebody has it."""
        return self.filter(name=name, expires_at__gt=Now())

    def holder_of(self, name: str) -> str:
        """Return the holder of the lease; empty: nobody has it."""
        return self.held(name).values_list("holder", flat=True).first() or ""


def _held(holder: str, seconds: float) -> dict[str, object]:
    return {"holder": holder, "expires_at": Now() + timedelta(seconds=seconds)}


class Lease(models.Model):
    """A lease and its holder."""

    name = models.CharField(max_length=64, primary_key=True)
    holder = models.CharField(max_length=64, blank=True)
    expires_at = models.DateTimeField()
    """By the database's clock."""

    objects: ClassVar[LeaseManager] = LeaseManager()

    def __str__(self) -> str:
        return self.name
