"""How a peer reads to people, and to programs that ask for it: of its row, and of what the worker told of it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from django.core.exceptions import ObjectDoesNotExist
from django.db.models import Exists
from django.utils import timezone

from dwsps_channels.models import Peer, PeerQuerySet, PeerStatus
from dwsps_channels.peering.outbound.health import State
from dwsps_channels.peering.store import running_workers, worker_is_running

STALE_TIMEOUT = 5.0
"""The worker tells of each peer every second. Of a worker that says nothing for so long, nothing is believed."""


class Tone(StrEnum):
    """What to feel about it."""

    GOOD = "good"
    WAITING = "waiting"
    BAD = "bad"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Condition:
    """How a peer is."""

    state: str
    """One word: a ``State``; or ``not_sent_to``, ``no_secret``, ``no_worker``, ``stale``."""
    words: str
    """The same for people, with its age."""
    tone: Tone
    status: PeerStatus | None
    """What the worker has told of it, however long ago; ``None``: nothing yet."""


_TONES = {
    State.DISABLED: Tone.OFF,
    State.CONNECTING: Tone.WAITING,
    State.CONNECTED: Tone.GOOD,
    State.BACKING_OFF: Tone.WAITING,
    State.REFUSED: Tone.BAD,
    State.LOOP: Tone.BAD,
}


def with_conditions(peers: PeerQuerySet) -> PeerQuerySet:
    """The peers with what ``condition_of`` needs, so that it asks the database no more."""
    selected: PeerQuerySet = (
        peers.select_related("status")
        .defer("status__cursor")
        .annotate(worker_is_running=Exists(running_workers()))
    )
    return selected


def condition_of(peer: Peer) -> Condition:
    """How ``peer`` is now."""
    running = getattr(peer, "worker_is_running", None)
    if running is None:
        running = worker_is_running()
    return _condition(peer, running)


def _condition(peer: Peer, worker_is_running: bool) -> Condition:
    status = status_of(peer)
    if not peer.enabled:
        return Condition("disabled", "disabled", Tone.OFF, status)
    if peer.has_lost_secret:
        return Condition("no_secret", "its secret cannot be decrypted", Tone.BAD, status)
    if peer.lacks_secret:
        return Condition("no_secret", "it has no secret", Tone.BAD, status)
    if not peer.forward:
        return Condition("not_sent_to", "not sent to", Tone.OFF, status)
    if status is None or status.seen_at is None or status.state == State.DISABLED:
        words = "waiting for the worker" if worker_is_running else "no worker is running"
        return Condition("no_worker", words, Tone.WAITING, status)
    state = State(status.state)
    if not worker_is_running or timezone.now() - status.seen_at > timedelta(seconds=STALE_TIMEOUT):
        words = f"stale: {_words(state)} when last heard of, {_ago(status.seen_at)} ago"
        return Condition("stale", words, Tone.BAD, status)
    since = f", for {_ago(status.since)}" if status.since else ""
    return Condition(state.value, _words(state) + since, _TONES[state], status)


def status_of(peer: Peer) -> PeerStatus | None:
    """What the worker has told of ``peer``."""
    try:
        return peer.status
    except ObjectDoesNotExist:
        return None


def _words(state: State) -> str:
    return state.value.replace("_", " ")


def _ago(moment: datetime) -> str:
    seconds = max(0, int((timezone.now() - moment).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
