"""The worker's side of the database: peers and cursors in, statuses out, and the lease.

All of it asks the database, and waits for it: call it in a thread.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, router, transaction
from django.db.models import Exists, F, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from dwsps_channels.models import Peer, PeerStatus, WorkerLease
from dwsps_channels.peering.outbound.config import PeerConfig
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStatus
from dwsps_channels.protocol.text import printable

logger = logging.getLogger("dwsps_channels.peering")

LEASE = "forwarder"

_FORWARDING = Q(enabled=True, forward=True)

# The peers that were said to have no readable secret, by id and revision: the rows are read every second.
_told: set[tuple[int, int]] = set()


def load_peers() -> list[PeerConfig]:
    """The peers that are forwarded to, by name. One without a readable secret is left out, and logged once."""
    found = []
    for peer in Peer.objects.filter(_FORWARDING).order_by("name"):
        if not (peer.has_lost_secret or peer.lacks_secret):
            found.append(config_of(peer))
        elif (peer.pk, peer.revision) not in _told:
            _told.add((peer.pk, peer.revision))
            problem = "it has no secret"
            if peer.has_lost_secret:
                problem = "its secret cannot be decrypted: SECRET_KEY has changed, or its row was changed past this app"
            logger.error("peer '%s' left out: %s; set it again", peer.name, problem)
    return found


def has_peers() -> bool:
    """Whether there is a peer to forward to."""
    return Peer.objects.filter(_FORWARDING).exists()


def config_of(peer: Peer) -> PeerConfig:
    """What a link has to know of ``peer``, whether it is forwarded to or not."""
    return PeerConfig(
        id=peer.pk,
        name=peer.name,
        url=peer.connect_url,
        secret="" if peer.secret_in_url else peer.secret,
        dwsps=peer.dwsps,
        topics=peer.topic_list,
        enabled_at=peer.enabled_at.timestamp(),
    )


def load_position(peer: int) -> dict[str, int]:
    """How far the peer had acknowledged, ``{origin: id}``, by what was written last.

    What was written before it was enabled again says nothing: what came in between is not for it, and not missing.
    """
    written = PeerStatus.objects.filter(peer_id=peer, seen_at__gte=F("peer__enabled_at"))
    status = written.only("cursor").first()
    return {} if status is None else status.cursor


def write_statuses(links: Mapping[int, LinkStatus]) -> None:
    """Write the status of each link, by the peer's id, and mark peers that are not forwarded to as disabled.

    Peers that are gone, or were disabled meanwhile, are left out.
    """
    now = timezone.now()
    wanted = Peer.objects.filter(_FORWARDING, pk__in=list(links)).values_list("pk", flat=True)
    rows = [_row(pk, links[pk], now) for pk in wanted]
    _add_missing(rows)
    fields = [field.name for field in PeerStatus._meta.fields if not field.primary_key]
    PeerStatus.objects.bulk_update(rows, fields)
    idle = PeerStatus.objects.filter(~Q(peer__enabled=True, peer__forward=True))
    idle.exclude(state=LinkState.DISABLED).update(
        state=LinkState.DISABLED, since=now, seen_at=now, last_error="", round_trip=None, queued=0
    )


def _row(peer: int, status: LinkStatus, now: datetime) -> PeerStatus:
    values = asdict(status) | {
        "since": datetime.fromtimestamp(status.since, UTC if settings.USE_TZ else None),
        "last_error": printable(status.last_error),
    }
    return PeerStatus(peer_id=peer, seen_at=now, **values)


def _add_missing(rows: Iterable[PeerStatus]) -> None:
    pks = {row.pk for row in rows}
    known = PeerStatus.objects.filter(pk__in=pks).values_list("pk", flat=True)
    for pk in pks.difference(known):
        try:
            # Of the database that it is written to, which need not be the default one.
            with transaction.atomic(using=router.db_for_write(PeerStatus)):
                PeerStatus.objects.create(peer_id=pk)
        except IntegrityError:
            pass  # its peer was removed this very moment, or another worker was faster


# The lease. The database's clock alone counts, so that those of the workers may differ.


def acquire(holder: str, seconds: float) -> bool:
    """Take the lease, if nobody has it, or keep it; whether ``holder`` has it now, for so many seconds."""
    WorkerLease.objects.get_or_create(name=LEASE, defaults={"holder": "", "expires_at": Now()})
    # One statement: of two who try, the second sees what the first has written.
    taken = WorkerLease.objects.filter(
        Q(holder=holder) | Q(expires_at__lte=Now()), name=LEASE
    ).update(holder=holder, expires_at=Now() + timedelta(seconds=seconds))
    return taken == 1


def release(holder: str) -> None:
    """Give the lease back, if ``holder`` has it, so that another worker need not wait for its end."""
    WorkerLease.objects.filter(name=LEASE, holder=holder).update(holder="", expires_at=Now())


def lease_end() -> datetime | None:
    """When the lease ends or has ended. A worker that lives moves that on; ``None``: nobody ever had it."""
    return WorkerLease.objects.filter(name=LEASE).values_list("expires_at", flat=True).first()


def running_workers() -> QuerySet[WorkerLease]:
    """The lease, if a worker has it."""
    return WorkerLease.objects.filter(name=LEASE, expires_at__gt=Now())


def worker_is_running() -> bool:
    """Whether a worker has the lease."""
    return running_workers().exists()


def lacks_worker() -> bool:
    """Whether there is something to forward, and nobody does it. A worker without peers needs no lease."""
    return Peer.objects.filter(_FORWARDING).exclude(Exists(running_workers())).exists()
