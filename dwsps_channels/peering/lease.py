"""The lease that makes one worker at a time forward.

Every function queries the database: call it in a thread.
"""

from datetime import datetime

from django.db.models import Exists, QuerySet

from dwsps_channels.models import Lease, Peer

NAME = "forwarder"


def acquire(holder: str, seconds: float) -> bool:
    """Take the lease for ``seconds`` if it is free, or extend it; return whether ``holder`` has it now."""
    return Lease.objects.acquire(NAME, holder, seconds)


def release(holder: str) -> None:
    """Give the lease back if ``holder`` has it, so that another worker need not wait for its end."""
    Lease.objects.release(NAME, holder)


def confirm(holder: str) -> bool:
    """Return whether ``holder`` has the lease. In a transaction nobody else can take it before the end of that."""
    # An update, as it locks the row on every database.
    return Lease.objects.filter(name=NAME, holder=holder).update(holder=holder) == 1


def expiry() -> datetime | None:
    """Return the end of the lease, past or future; ``None``: nobody ever had it. A running worker extends it."""
    return Lease.objects.expiry(NAME)


def running_workers() -> "QuerySet[Lease]":
    """Select the lease if a worker has it."""
    return Lease.objects.held(NAME)


def running_worker() -> str:
    """Return the name of the process of the worker that has the lease; empty: none has."""
    return Lease.objects.holder_of(NAME)


def worker_is_running() -> bool:
    """Return whether a worker has the lease."""
    return running_workers().exists()


def lacks_worker() -> bool:
    """Return whether there are peers to forward to, and no worker. A worker without peers takes no lease."""
    return Peer.objects.forwarding().exclude(Exists(running_workers())).exists()
