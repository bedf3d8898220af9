"""The lag of a peer, and the losses that it foretells."""

from typing import Any

import pytest
from django.utils import timezone

from dwsps_channels.core.retention import Retention
from dwsps_channels.models import PeerStatus
from dwsps_channels.peering import lag as module
from dwsps_channels.peering.lag import Lag, lag_of
from dwsps_channels.peering.outbound.link_status import LinkState
from dwsps_channels.peering.severity import Severity

RETENTION = Retention(messages=1000, seconds=3600)
NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", lambda: NOW)


def lag(messages: int, age: float | None, retention: Retention | None = RETENTION) -> Lag:
    """Return the lag of a peer whose oldest waiting message has this age."""
    oldest_at = None if age is None else NOW - age
    found = lag_of(status(lag=messages, oldest_at=oldest_at), retention)
    assert found is not None
    return found


def status(**values: Any) -> PeerStatus:
    return PeerStatus(**{"state": LinkState.CONNECTED, "seen_at": timezone.now()} | values)


@pytest.mark.parametrize(
    ("messages", "age", "text", "severity"),
    [
        (0, None, "0", Severity.OK),
        (7, None, "7", Severity.OK),
        (12, 5.5, "12 · oldest 5 s", Severity.OK),
        (12, 185, "12 · oldest 3 min", Severity.WARNING),
        (1_234_567, 0.5, "1\u00a0234\u00a0567 · oldest 0 s", Severity.ERROR),
    ],
)
def test_it_reads_at_a_glance(
    messages: int, age: float | None, text: str, severity: Severity
) -> None:
    found = lag(messages, age)
    assert (found.text, found.severity) == (text, severity)


def test_beyond_half_of_the_age_it_says_when_messages_will_be_lost() -> None:
    assert lag(5, 1790).warning == ""
    found = lag(5, 1900)
    assert found.loses_in == 1700
    assert found.warning == "will lose messages in 28 min"
    assert lag(5, 3700).warning == "loses messages"


def test_beyond_half_of_the_messages_it_expects_more_at_the_same_rate() -> None:
    assert lag(500, 100).loses_in is None
    # 8 a second came, so 200 more come in 25 seconds.
    assert lag(800, 100).loses_in == 25
    assert lag(1000, 100).loses_in == 0
    # Whichever bound is reached first.
    assert lag(600, 3500).loses_in == 100


def test_what_was_not_read_yet_has_no_age_and_foretells_nothing() -> None:
    assert lag(900, None).loses_in is None


def test_a_clock_that_was_set_back_gives_no_negative_age() -> None:
    assert lag(1, -50).seconds == 0.0


@pytest.mark.parametrize(
    "row",
    [None, status(seen_at=None), status(state=LinkState.DISABLED)],
    ids=["none", "not written", "disabled"],
)
def test_a_peer_that_is_not_sent_to_has_none(row: PeerStatus | None) -> None:
    assert lag_of(row, RETENTION) is None


BACKENDS = "dwsps_channels.broker.backends."


@pytest.mark.parametrize(
    ("broker", "seconds"),
    [
        ({"BACKEND": BACKENDS + "MemoryBackend"}, 100),
        ({"BACKEND": BACKENDS + "DatabaseBackend"}, 1000),
        (
            {
                "BACKEND": BACKENDS + "RedisBackend",
                "OPTIONS": {"HOSTS": ["redis://127.0.0.1:1/"]},
            },
            1000,
        ),
    ],
    ids=["memory", "database", "redis"],
)
def test_the_bounds_are_those_of_the_log_that_the_broker_keeps(
    settings: Any, broker: dict[str, object], seconds: float
) -> None:
    bounds = {"TAIL_MAX_AGE": 100, "LOG_MAX_AGE": 1000, "BROKER": broker}
    settings.DWSPS = {**settings.DWSPS, **bounds}
    assert lag(5, seconds / 2 - 1, None).loses_in is None
    assert lag(5, seconds - 10, None).loses_in == 10
