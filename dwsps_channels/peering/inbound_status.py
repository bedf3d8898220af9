"""The inbound half of a peer's status: whether it is connected to this server, and what it has sent."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone

from dwsps_channels.models import Peer, PeerInbound
from dwsps_channels.models.peer_inbound import RETENTION
from dwsps_channels.peering.severity import Severity
from dwsps_channels.peering.units import count, duration


@dataclass(frozen=True, slots=True)
class InboundSummary:
    """The connections of one peer to all processes of this server. The counters are sums of what these have written."""

    state: str
    """For scripts: ``connected``, ``gone``, ``never``, ``not_accepted`` or ``disabled``."""
    severity: Severity
    connections: int
    addresses: tuple[str, ...]
    """The addresses that it is connected from, or was last."""
    since: datetime | None
    """The time since which it is connected."""
    seen_at: datetime | None
    """The time at which it was connected last, as far as was written."""
    received: int
    duplicates: int
    refused: int

    @property
    def text(self) -> str:
        """Return the state for people, and how long it has lasted."""
        match self.state:
            case "connected" if self.since is not None:
                return f"connected, for {_age(self.since)}"
            case "gone" if self.seen_at is not None:
                return f"left {_age(self.seen_at)} ago"
            case "not_accepted":
                return "not accepted from"
            case "disabled":
                return "disabled"
        return "not connected"

    @property
    def short_text(self) -> str:
        """Return the state, and how much came: "connected, for 3 min · 1 204 received"."""
        return f"{self.text} · {count(self.received)} received" if self.seen_at else self.text


_SEVERITIES = {
    "connected": Severity.OK,
    "gone": Severity.PENDING,
    "never": Severity.OFF,
    "not_accepted": Severity.OFF,
    "disabled": Severity.OFF,
}


def summarize_inbound(peer: Peer) -> InboundSummary:
    """Sum up what the processes of this server have written about ``peer``."""
    oldest = timezone.now() - RETENTION
    written: Iterable[PeerInbound] = peer.inbound.all()
    rows = [row for row in written if row.seen_at is not None and row.seen_at > oldest]
    rows.sort(key=lambda row: row.seen_at or oldest, reverse=True)
    connected = [row for row in rows if row.is_connected]
    if not peer.enabled:
        state = "disabled"
    elif not peer.accept:
        state = "not_accepted"
    elif connected:
        state = "connected"
    else:
        state = "gone" if rows else "never"
    return InboundSummary(
        state=state,
        severity=_SEVERITIES[state],
        connections=sum(row.connections for row in connected),
        addresses=tuple(dict.fromkeys(row.address for row in connected or rows[:1] if row.address)),
        since=min((row.since for row in connected if row.since is not None), default=None),
        seen_at=rows[0].seen_at if rows else None,
        received=sum(row.received for row in rows),
        duplicates=sum(row.duplicates for row in rows),
        refused=sum(row.refused for row in rows),
    )


def _age(moment: datetime) -> str:
    return duration((timezone.now() - moment).total_seconds())
