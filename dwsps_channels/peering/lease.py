"""The lease that makes one worker at a time forward.

Every function queries the database: call it in a thread. Only the database's clock counts, as those of workers may differ.
"""

from datetime import datetime, timedelta

from django.db.models import Exists, Q, QuerySet
from django.db.models.functions import Now

from dwsps_channels.models import Peer, WorkerLease

NAME = "forwarder"


def acquire(holder: str, seconds: float) -> bool:
    """Take the lease for ``seconds`` if it is free, or extend it; return whether ``holder`` has it now."""
    WorkerLease.objects.get_or_create(name=NAME, defaults={"holder": "", "expires_at": Now()})
    # One statement, so that of two concurrent attempts the second sees the result of the first.
    taken = WorkerLease.objects.filter(
        Q(holder=holder) | Q(expires_at__lte=Now()), name=NAME
    ).update(holder=holder, expires_at=Now() + timedelta(seconds=seconds))
    return taken == 1


def release(holder: str) -> None:
    """Give the lease back if ``holder`` has it, so that another worker need not wait for its end."""
    WorkerLease.objects.filter(name=NAME, holder=holder).update(holder="", expires_at=Now())


def expiry() -> datetime | None:
    """Return the end of the lease, past or future; ``None``: nobody ever had it. A running worker extends it."""
    return WorkerLease.objects.filter(name=NAME).values_list("expires_at", flat=True).first()


def running_workers() -> QuerySet[WorkerLease]:
    """Select the lease if a worker has it."""
    return WorkerLease.objects.filter(name=NAME, expires_at__gt=Now())


def worker_is_running() -> bool:
    """Return whether a worker has the lease."""
    return running_workers().exists()


def lacks_worker() -> bool:
    """Return whether there are peers to forward to, and no worker. A worker without peers takes no lease."""
    return Peer.objects.forwarding().exclude(Exists(running_workers())).exists()
