"""The worker's access to the database: it reads peers and positions, and writes statuses.

Every function here queries the database: call it in a thread, or use ``DatabaseStore``.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from channels.db import database_sync_to_async
from django.conf import settings
from django.db import IntegrityError, router, transaction
from django.db.models import F, Q
from django.utils import timezone

from dwsps_channels.core.page import Position
from dwsps_channels.models import Peer, PeerStatus
from dwsps_channels.peering import lease
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
    """Return whether there is a peer to forward to."""
    return Peer.objects.forwarding().exists()


def config_of(peer: Peer) -> PeerConfig:
    """Make the configuration of a link to ``peer``, whether messages are forwarded to it or not."""
    return PeerConfig(
        id=peer.pk,
        name=peer.name,
        url=peer.connect_url,
        secret="" if peer.secret_in_url else peer.secret,
        dwsps=peer.dwsps,
        topics=peer.topic_list,
        enabled_at=peer.enabled_at.timestamp(),
    )


def load_position(peer: PeerConfig) -> Position:
    """Load the position of ``peer``: the last that was written since it was enabled, else the moment when it was enabled."""
    written = PeerStatus.objects.filter(peer_id=peer.id, seen_at__gte=F("peer__enabled_at"))
    status = written.only("position", "position_at").first()
    if status is None or not status.position_at:
        return Position(at=peer.enabled_at)
    return Position(status.position, status.position_at)


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
        state=LinkState.DISABLED,
        since=now,
        seen_at=now,
        last_error="",
        round_trip=None,
        lag=0,
        oldest_at=None,
    )


def write_for(holder: str, links: Mapping[int, LinkStatus]) -> bool:
    """Write the statuses if ``holder`` has the worker's lease; return whether it has: else another worker knows better."""
    # On the database that the statuses are written to, which need not be the default one.
    with transaction.atomic(using=router.db_for_write(PeerStatus)):
        if not lease.confirm(holder):
            return False
        write_statuses(links)
    return True


def _row(peer: int, status: LinkStatus, now: datetime) -> PeerStatus:
    stats = status.stats
    return PeerStatus(
        peer_id=peer,
        state=status.state,
        since=datetime.fromtimestamp(status.since, UTC if settings.USE_TZ else None),
        seen_at=now,
        last_error=printable(status.last_error),
        round_trip=status.round_trip,
        forwarded=stats.forwarded,
        acked=stats.acked,
        lag=status.lag,
        oldest_at=status.oldest_at,
        dropped=stats.dropped,
        missed=stats.missed,
        resent=stats.resent,
        reconnects=stats.reconnects,
        position=status.position.cursor,
        position_at=status.position.at,
    )


def _add_missing(rows: Iterable[PeerStatus]) -> None:
    pks = {row.pk for row in rows}
    known = PeerStatus.objects.filter(pk__in=pks).values_list("pk", flat=True)
    for pk in pks.difference(known):
        try:
            # On the database that the status is written to, which need not be the default one.
            with transaction.atomic(using=router.db_for_write(PeerStatus)):
                PeerStatus.objects.create(peer_id=pk)
        except IntegrityError:
            pass  # the peer was just removed, or another worker was faster


class DatabaseStore:
    """The forwarder's ``Store``, in the project's database."""

    def __init__(self, holder: str) -> None:
        """Write for the worker that has the lease as ``holder``."""
        self._holder = holder
        # The peers left out, with the logged reason: the rows are read every second.
        self._reported: dict[int, str] = {}

    async def peers(self) -> Sequence[PeerConfig]:
        """Load the peers to forward to."""
        return await database_sync_to_async(load_peers)(self._reported)

    async def position(self, peer: PeerConfig) -> Position:
        """Load the position from the peer's status."""
        return await database_sync_to_async(load_position)(peer)

    async def write(self, statuses: Mapping[int, LinkStatus]) -> None:
        """Write the peers' statuses, unless the lease is lost."""
        await database_sync_to_async(write_for)(self._holder, statuses)
