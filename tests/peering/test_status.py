"""The status of a peer in words: from its row and from the worker's report."""

from datetime import timedelta
from time import time
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from dwsps_channels.models import Peer, PeerInbound, PeerStatus
from dwsps_channels.peering import lease
from dwsps_channels.peering.inbound_status import summarize_inbound
from dwsps_channels.peering.lag import Lag
from dwsps_channels.peering.outbound.link_status import LinkState
from dwsps_channels.peering.severity import Severity
from dwsps_channels.peering.status import StatusSummary, summarize, with_status

pytestmark = pytest.mark.django_db


def summary(
    *,
    told: LinkState | None = LinkState.CONNECTED,
    seconds_ago: float = 0.5,
    working: bool = True,
    **values: Any,
) -> StatusSummary:
    peer = Peer.objects.create(
        name="b", url="ws://b.example/", secret="correct-horse-battery-staple", **values
    )
    now = timezone.now()
    if told is not None:
        PeerStatus.objects.create(
            peer=peer,
            state=told,
            since=now - timedelta(seconds=125),
            seen_at=now - timedelta(seconds=seconds_ago),
        )
    if working:
        assert lease.acquire("worker", 60)
    found = summarize(with_status(Peer.objects.all()).get())
    assert found == summarize(Peer.objects.get())
    return found


@pytest.mark.parametrize(
    ("state", "text", "severity"),
    [
        (LinkState.CONNECTING, "connecting", Severity.PENDING),
        (LinkState.CONNECTED, "connected", Severity.OK),
        (LinkState.BACKING_OFF, "backing off", Severity.PENDING),
        (LinkState.REFUSED, "refused", Severity.ERROR),
        (LinkState.LOOP, "loop", Severity.ERROR),
    ],
)
def test_what_the_worker_tells_is_shown_with_its_age(
    state: LinkState, text: str, severity: Severity
) -> None:
    found = summary(told=state)
    assert (found.state, found.text, found.severity) == (state, f"{text}, for 2 min", severity)


def test_what_the_worker_told_long_ago_is_stale() -> None:
    found = summary(seconds_ago=3700)
    assert found.state == "stale"
    assert found.text == "stale: connected 1 h ago"
    assert found.severity is Severity.ERROR


def test_a_worker_that_polls_rarely_is_not_stale_between_two_polls(settings: Any) -> None:
    settings.DWSPS = {**settings.DWSPS, "TIMINGS": {"PEER_POLL_INTERVAL": 30.0}}
    assert summary(seconds_ago=60).state == "connected"
    PeerStatus.objects.update(seen_at=timezone.now() - timedelta(seconds=151))
    assert summarize(Peer.objects.get()).state == "stale"


def test_without_a_worker_nothing_is_believed() -> None:
    found = summary(working=False)
    assert found.state == "stale"
    assert found.status is not None


@pytest.mark.parametrize(
    ("working", "text"), [(True, "waiting for the worker"), (False, "no worker is running")]
)
def test_before_the_worker_told_of_it_that_is_said(working: bool, text: str) -> None:
    found = summary(told=None, working=working)
    assert (found.state, found.text, found.status) == ("no_worker", text, None)


def test_a_peer_that_was_enabled_a_moment_ago_waits_for_the_worker() -> None:
    assert summary(told=LinkState.DISABLED).text == "waiting for the worker"


@pytest.mark.parametrize("told", [None, LinkState.CONNECTED])
def test_the_row_is_believed_before_the_worker(told: LinkState | None) -> None:
    assert summary(told=told, enabled=False).state == "disabled"


def test_a_peer_that_only_sends_to_us_has_no_link_to_tell_of() -> None:
    assert summary(told=LinkState.DISABLED, forward=False).text == "not sent to"


def test_a_secret_that_is_lost_is_said_before_all(settings: Any) -> None:
    Peer.objects.create(name="c", url="ws://b.example/", secret="correct-horse-battery-staple")
    settings.SECRET_KEY = "new" * 20
    found = summarize(Peer.objects.get())
    assert (found.state, found.text) == ("no_secret", "its secret cannot be decrypted")


@pytest.mark.parametrize(
    ("age", "text", "severity"),
    [
        (1, "connected, for 2 min", Severity.OK),
        (61, "connected, for 2 min, behind", Severity.WARNING),
        (3000, "connected, for 2 min, behind", Severity.ERROR),
    ],
)
def test_a_connected_peer_whose_messages_wait_is_behind(
    age: float, text: str, severity: Severity
) -> None:
    assert summary().lag == Lag(0, None, None)
    PeerStatus.objects.update(lag=12, oldest_at=time() - age)
    found = summarize(Peer.objects.get())
    assert (found.state, found.text, found.severity) == ("connected", text, severity)
    assert found.lag is not None
    assert found.lag.messages == 12


def test_what_waits_for_a_peer_that_is_away_is_not_what_is_wrong_with_it() -> None:
    summary(told=LinkState.REFUSED)
    PeerStatus.objects.update(lag=12, oldest_at=time() - 3000)
    found = summarize(Peer.objects.get())
    assert (found.text, found.severity) == ("refused, for 2 min", Severity.ERROR)
    assert found.lag is not None
    assert found.lag.severity is Severity.ERROR


def test_many_peers_take_few_queries(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    for number in range(5):
        peer = Peer.objects.create(name=f"b{number}", url="ws://b.example/")
        PeerStatus.objects.create(peer=peer, seen_at=timezone.now())
        PeerInbound.objects.create(peer=peer, process="one", seen_at=timezone.now())
    Peer.objects.create(name="c", url="ws://b.example/")
    with django_assert_num_queries(2):
        peers = with_status(Peer.objects.all())
        assert len([(summarize(peer), summarize_inbound(peer)) for peer in peers]) == 6
