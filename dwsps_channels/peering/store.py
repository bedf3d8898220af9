"""The worker's side of the database: peers and cursors in, statuses out, and the lease.

All of it asks the database, and waits for it: call it in a thread.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime

from django.conf import settings
from django.db import IntegrityError, router, transaction
from django.db.models import F, Q
from django.utils import timezone

from dwsps_channels.models import Peer, PeerStatus
from dwsps_channels.peering.outbound.config import PeerConfig
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStatus
from dwsps_channels.protocol.text import printable

logger = logging.getLogger("dwsps_channels.peering")


def load_peers(reported: dict[int, str] | None = None) -> list[PeerConfig]:
    """Load the peers to forward to, by name. One without a readable secret is left out, and the reason is logged.

    ``reported`` maps the ids of those left out to the reason that was logged last. It is updated, and a reason that is
    in it is not logged again.
    """
    found = []
    problems = {}
    for peer in Peer.objects.forwarding().order_by("name"):
        problem = _secret_problem(peer)
        if problem is None:
            found.append(config_of(peer))
            continue
        problems[peer.pk] = problem
        if reported is None or reported.get(peer.pk) != problem:
            logger.error("peer '%s' left out: %s; set it again", peer.name, problem)
    if reported is not None:
        reported.clear()
        reported.update(problems)
    return found


def _secret_problem(peer: Peer) -> str | None:
    if peer.has_lost_secret:
        return "its secret cannot be decrypted: SECRET_KEY has changed, or its row was changed past this app"
    return "it has no secret" if peer.lacks_secret else None


def has_peers() -> bool:
    """Whether there is a peer to forward to."""
    return Peer.objects.forwarding().exists()


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


def load_cursor(peer: int) -> dict[str, int]:
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
    wanted = Peer.objects.forwarding().filter(pk__in=list(links)).values_list("pk", flat=True)
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
