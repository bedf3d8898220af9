"""How a peer reads: of its row, and of what the worker told of it, and when."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from dwsps_channels.models import Peer, PeerStatus
from dwsps_channels.peering import store
from dwsps_channels.peering.conditions import Condition, Tone, condition_of, with_conditions
from dwsps_channels.peering.outbound.health import State

pytestmark = pytest.mark.django_db


def condition(
    *,
    told: State | None = State.CONNECTED,
    seconds_ago: float = 0.5,
    working: bool = True,
    **values: Any,
) -> Condition:
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
        assert store.acquire("worker", 60)
    found = condition_of(with_conditions(Peer.objects.all()).get())
    assert found == condition_of(Peer.objects.get())
    return found


@pytest.mark.parametrize(
    ("state", "words", "tone"),
    [
        (State.CONNECTING, "connecting", Tone.WAITING),
        (State.CONNECTED, "connected", Tone.GOOD),
        (State.BACKING_OFF, "backing off", Tone.WAITING),
        (State.REFUSED, "refused", Tone.BAD),
        (State.LOOP, "loop", Tone.BAD),
    ],
)
def test_what_the_worker_tells_is_shown_with_its_age(state: State, words: str, tone: Tone) -> None:
    found = condition(told=state)
    assert (found.state, found.words, found.tone) == (state, f"{words}, for 2 min", tone)


def test_what_the_worker_told_long_ago_is_stale() -> None:
    found = condition(seconds_ago=3700)
    assert found.state == "stale"
    assert found.words == "stale: connected when last heard of, 1 h ago"
    assert found.tone is Tone.BAD


def test_without_a_worker_nothing_is_believed() -> None:
    found = condition(working=False)
    assert found.state == "stale"
    assert found.status is not None


@pytest.mark.parametrize(
    ("working", "words"), [(True, "waiting for the worker"), (False, "no worker is running")]
)
def test_before_the_worker_told_of_it_that_is_said(working: bool, words: str) -> None:
    found = condition(told=None, working=working)
    assert (found.state, found.words, found.status) == ("no_worker", words, None)


def test_a_peer_that_was_enabled_a_moment_ago_waits_for_the_worker() -> None:
    assert condition(told=State.DISABLED).words == "waiting for the worker"


@pytest.mark.parametrize("told", [None, State.CONNECTED])
def test_the_row_is_believed_before_the_worker(told: State | None) -> None:
    assert condition(told=told, enabled=False).state == "disabled"


def test_a_peer_that_only_sends_to_us_has_no_link_to_tell_of() -> None:
    assert condition(told=State.DISABLED, forward=False).words == "not sent to"


def test_a_secret_that_is_lost_is_said_before_all(settings: Any) -> None:
    Peer.objects.create(name="c", url="ws://b.example/", secret="correct-horse-battery-staple")
    settings.SECRET_KEY = "new" * 20
    found = condition_of(Peer.objects.get())
    assert (found.state, found.words) == ("no_secret", "its secret cannot be decrypted")


def test_many_peers_take_one_query(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    for number in range(5):
        peer = Peer.objects.create(name=f"b{number}", url="ws://b.example/")
        PeerStatus.objects.create(peer=peer, seen_at=timezone.now())
    Peer.objects.create(name="c", url="ws://b.example/")
    with django_assert_num_queries(1):
        assert len([condition_of(peer) for peer in with_conditions(Peer.objects.all())]) == 6
