"""The inbound half of a peer's status: a sum over the processes of this server."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from dwsps_channels.models import Peer, PeerInbound
from dwsps_channels.models.peer_inbound import ALIVE_TIMEOUT, RETENTION
from dwsps_channels.peering.inbound_status import InboundSummary, summarize_inbound
from dwsps_channels.peering.severity import Severity
from dwsps_channels.peering.status import with_status

pytestmark = pytest.mark.django_db


@pytest.fixture
def peer() -> Peer:
    return Peer.objects.create(
        name="b", url="ws://b.example/", secret="correct-horse-battery-staple"
    )


def wrote(
    peer: Peer,
    process: str,
    ago: timedelta = timedelta(),
    since: float | None = None,
    **values: Any,
) -> None:
    """Let a process write its row so long ago; ``since`` is the age of the connection, in seconds."""
    now = timezone.now()
    PeerInbound.objects.create(
        peer=peer,
        process=process,
        seen_at=now - ago,
        since=None if since is None else now - timedelta(seconds=since),
        connections=int(since is not None),
        **values,
    )


def summary() -> InboundSummary:
    found = summarize_inbound(with_status(Peer.objects.all()).get())
    assert found == summarize_inbound(Peer.objects.get())
    return found


def test_a_peer_that_never_came_is_not_connected(peer: Peer) -> None:
    found = summary()
    assert (found.state, found.text, found.severity) == ("never", "not connected", Severity.OFF)
    assert found.short_text == "not connected"
    assert (found.received, found.since, found.seen_at) == (0, None, None)


def test_processes_are_summed_up(peer: Peer) -> None:
    wrote(peer, "one", since=185, address="192.0.2.1", received=1000, duplicates=20, refused=3)
    wrote(peer, "two", since=30, address="192.0.2.2", received=204, duplicates=1, refused=1)
    wrote(peer, "idle", address="192.0.2.3", received=5)
    found = summary()
    assert (found.state, found.severity) == ("connected", Severity.OK)
    assert found.text == "connected, for 3 min"
    assert found.short_text == "connected, for 3 min · 1\u00a0209 received"
    assert (found.connections, found.received, found.duplicates, found.refused) == (2, 1209, 21, 4)
    assert set(found.addresses) == {"192.0.2.1", "192.0.2.2"}


def test_a_peer_that_left_says_when(peer: Peer) -> None:
    wrote(peer, "one", timedelta(minutes=5), received=1)
    wrote(peer, "two", timedelta(minutes=9), received=2, address="192.0.2.2")
    found = summary()
    assert (found.state, found.severity) == ("gone", Severity.PENDING)
    assert found.short_text == "left 5 min ago · 3 received"
    assert (found.connections, found.since, found.addresses) == (0, None, ())


def test_a_process_that_died_has_no_connections(peer: Peer) -> None:
    wrote(peer, "killed", ALIVE_TIMEOUT, since=500, address="192.0.2.1", received=7)
    found = summary()
    assert (found.state, found.connections, found.received) == ("gone", 0, 7)
    assert found.addresses == ("192.0.2.1",)
    # It comes back, to another one.
    wrote(peer, "next", since=185, received=1)
    assert summary().text == "connected, for 3 min"
    assert summary().received == 8


def test_what_was_written_too_long_ago_does_not_count(peer: Peer) -> None:
    wrote(peer, "old", RETENTION, received=7)
    assert summary().state == "never"
    assert summary().received == 0


@pytest.mark.parametrize(
    ("change", "state", "text"),
    [
        ({"enabled": False}, "disabled", "disabled"),
        ({"accept": False}, "not_accepted", "not accepted from"),
    ],
)
def test_the_row_is_believed_before_the_processes(
    peer: Peer, change: dict[str, bool], state: str, text: str
) -> None:
    wrote(peer, "one", since=3, received=5)
    Peer.objects.update(**change)
    found = summary()
    assert (found.state, found.text, found.severity) == (state, text, Severity.OFF)
    assert found.received == 5
