"""The status of a peer for operators and scripts: its row, combined with what the worker last wrote about its link."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.core.exceptions import ObjectDoesNotExist
from django.db.models import Exists, Prefetch
from django.utils import timezone

from dwsps_channels.conf import conf
from dwsps_channels.models import Peer, PeerInbound, PeerQuerySet, PeerStatus
from dwsps_channels.peering.lag import Lag, lag_of
from dwsps_channels.peering.lease import running_workers, worker_is_running
from dwsps_channels.peering.outbound.link_status import LinkState
from dwsps_channels.peering.severity import Severity
from dwsps_channels.peering.units import duration

STALE_TIMEOUT = 5.0
STALE_POLLS = 5
"""The worker writes the status of each peer whenever it polls the rows. A status is out of date if it is older than
``STALE_TIMEOUT`` seconds, and than this many polls."""


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
    lag: Lag | None = None
    """``None``: nothing is sent to it, or no worker has read the log for it yet."""


_SEVERITIES = {
    LinkState.DISABLED: Severity.OFF,
    LinkState.CONNECTING: Severity.PENDING,
    LinkState.CONNECTED: Severity.OK,
    LinkState.BACKING_OFF: Severity.PENDING,
    LinkState.REFUSED: Severity.ERROR,
    LinkState.LOOP: Severity.ERROR,
}


def with_status(peers: PeerQuerySet) -> PeerQuerySet:
    """Load with ``peers`` everything that ``summarize`` and ``summarize_inbound`` need, so that they make no queries."""
    selected: PeerQuerySet = (
        peers.select_related("status")
        .prefetch_related(Prefetch("inbound", PeerInbound.objects.kept()))
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
    state, lag = LinkState(status.state), lag_of(status)
    stale_after = max(STALE_TIMEOUT, STALE_POLLS * conf.TIMINGS.PEER_POLL_INTERVAL)
    if not worker_is_running or timezone.now() - status.seen_at > timedelta(seconds=stale_after):
        text = f"stale: {state.label} {_age(status.seen_at)} ago"
        return StatusSummary("stale", text, Severity.ERROR, status, lag)
    text, severity = state.label, _SEVERITIES[state]
    if status.since:
        text += f", for {_age(status.since)}"
    if state is LinkState.CONNECTED and lag is not None and lag.severity is not Severity.OK:
        text, severity = f"{text}, behind", lag.severity
    return StatusSummary(state.value, text, severity, status, lag)


def status_of(peer: Peer) -> PeerStatus | None:
    """Return the row that the worker wrote last about ``peer``."""
    try:
        return peer.status
    except ObjectDoesNotExist:
        return None


def _age(moment: datetime) -> str:
    return duration((timezone.now() - moment).total_seconds())
