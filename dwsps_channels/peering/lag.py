"""The lag of a peer: the part of the log that it has not acknowledged."""

from dataclasses import dataclass
from time import time

from dwsps_channels.broker.backends import configured_backend
from dwsps_channels.core.retention import Retention
from dwsps_channels.models import PeerStatus
from dwsps_channels.peering.outbound.link_status import LinkState
from dwsps_channels.peering.severity import Severity
from dwsps_channels.peering.units import count, duration

OLD_AGE = 60.0
"""A message that waits longer than this, in seconds, is worth a warning."""

_NEAR = 0.5
"""The part of the retention beyond which a loss is predicted."""


@dataclass(frozen=True, slots=True)
class Lag:
    """The messages that wait for a peer, as the worker wrote it last, and what that means now."""

    messages: int
    """At most: messages that were not read from the log yet need not be for this peer."""
    seconds: float | None
    """The age of the oldest; ``None``: none waits, or it was not read from the log yet."""
    loses_in: float | None
    """The seconds until the log no longer has the oldest one, if the peer acknowledges nothing; 0: the log may not have it any
    more. ``None``: more than half of the log's retention is left, or it cannot be estimated."""

    @property
    def severity(self) -> Severity:
        """Return ``ERROR`` if messages will be lost, ``WARNING`` if the oldest is old."""
        if self.loses_in is not None:
            return Severity.ERROR
        return Severity.WARNING if (self.seconds or 0.0) > OLD_AGE else Severity.OK

    @property
    def text(self) -> str:
        """Return it for people: "1 204 · oldest 3 min"."""
        if self.seconds is None or not self.messages:
            return count(self.messages)
        return f"{count(self.messages)} · oldest {duration(self.seconds)}"

    @property
    def warning(self) -> str:
        """Return what is going to be lost; empty: nothing is foreseen."""
        if self.loses_in is None:
            return ""
        return (
            f"will lose messages in {duration(self.loses_in)}"
            if self.loses_in
            else "loses messages"
        )


def lag_of(status: PeerStatus | None, retention: Retention | None = None) -> Lag | None:
    """Return the lag that the worker wrote; ``None``: it has written none, or does not forward to the peer.

    ``retention``: that of the log; it is looked up in the settings if it is not given.
    """
    if status is None or status.seen_at is None or status.state == LinkState.DISABLED:
        return None
    waits = status.lag > 0 and status.oldest_at is not None
    seconds = max(0.0, time() - status.oldest_at) if waits and status.oldest_at else None
    return Lag(
        status.lag,
        seconds,
        _loses_in(status.lag, seconds, retention or configured_backend().retention),
    )


def _loses_in(messages: int, seconds: float | None, retention: Retention) -> float | None:
    if seconds is None:
        return None
    found = []
    if seconds > _NEAR * retention.seconds:
        found.append(retention.seconds - seconds)
    if messages > _NEAR * retention.messages:
        # As fast as they have come since the oldest one.
        found.append((retention.messages - messages) * seconds / messages)
    return max(0.0, min(found)) if found else None
