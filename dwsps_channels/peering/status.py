"""The status of a peer for operators and scripts: its row, combined with what the worker last wrote about its link."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from django.core.exceptions import ObjectDoesNotExist
from django.db.models import Exists
from django.utils import timezone

from dwsps_channels.conf import conf
from dwsps_channels.models import Peer, PeerQuerySet, PeerStatus
from dwsps_channels.peering.lease import running_workers, worker_is_running
from dwsps_channels.peering.outbound.link_status import LinkState

STALE_TIMEOUT = 5.0
STALE_POLLS = 5
"""The worker writes the status of each peer whenever it polls the rows. A status is out of date if it is older than
``STALE_TIMEOUT`` seconds, and than this many polls."""


class Severity(StrEnum):
    """The urgency of a status."""

    OK = "ok"
    PENDING = "pending"
    ERROR = "error"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class StatusSummary:
    """The status of one peer."""

    state: str
    """For scripts: a ``LinkState``, or ``not_sent_to``, ``no_secret``, ``no_worker``, ``stale``."""
    text: str
    """For people: the state, and how long it has lasted."""
    severity: Severity
    status: PeerStatus | None
    """The row that the worker wrote last, however long ago; ``None``: it has written none yet."""


_SEVERITIES = {
    LinkState.DISABLED: Severity.OFF,
    LinkState.CONNECTING: Severity.PENDING,
    LinkState.CONNECTED: Severity.OK,
    LinkState.BACKING_OFF: Severity.PENDING,
    LinkState.REFUSED: Severity.ERROR,
    LinkState.LOOP: Severity.ERROR,
}


def with_status(peers: PeerQuerySet) -> PeerQuerySet:
    """Load with ``peers`` everything that ``summarize`` needs, so that it makes no queries."""
    selected: PeerQuerySet = (
        peers.select_related("status")
        .defer("status__cursor")
        .annotate(worker_is_running=Exists(running_workers()))
    )
    return selected


def summarize(peer: Peer) -> StatusSummary:
    """Return the current status of ``peer``."""
    running = getattr(peer, "worker_is_running", None)
    if running is None:
        running = worker_is_running()
    return _summary(peer, running)


def _summary(peer: Peer, worker_is_running: bool) -> StatusSummary:
    status = status_of(peer)
    if not peer.enabled:
        return StatusSummary("disabled", "disabled", Severity.OFF, status)
    if peer.has_lost_secret:
        text = "its secret cannot be decrypted"
        return StatusSummary("no_secret", text, Severity.ERROR, status)
    if peer.lacks_secret:
        return StatusSummary("no_secret", "it has no secret", Severity.ERROR, status)
    if not peer.forward:
        return StatusSummary("not_sent_to", "not sent to", Severity.OFF, status)
    if status is None or status.seen_at is None or status.state == LinkState.DISABLED:
        text = "waiting for the worker" if worker_is_running else "no worker is running"
        return StatusSummary("no_worker", text, Severity.PENDING, status)
    state = LinkState(status.state)
    stale_after = max(STALE_TIMEOUT, STALE_POLLS * conf.TIMINGS.PEER_POLL_INTERVAL)
    if not worker_is_running or timezone.now() - status.seen_at > timedelta(seconds=stale_after):
        text = f"stale: {state.label} {_age(status.seen_at)} ago"
        return StatusSummary("stale", text, Severity.ERROR, status)
    since = f", for {_age(status.since)}" if status.since else ""
    return StatusSummary(state.value, state.label + since, _SEVERITIES[state], status)


def status_of(peer: Peer) -> PeerStatus | None:
    """Return the row that the worker wrote last about ``peer``."""
    try:
        return peer.status
    except ObjectDoesNotExist:
        return None


def _age(moment: datetime) -> str:
    seconds = max(0, int((timezone.now() - moment).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
