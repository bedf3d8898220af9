"""The worker's side of the database."""

import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from dwsps_channels.core.page import Position
from dwsps_channels.models import Lease, Peer, PeerStatus
from dwsps_channels.peering import lease, store
from dwsps_channels.peering.outbound.config import PeerConfig
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStats, LinkStatus

SECRET = "correct-horse-battery-staple"
BEGUN = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)


pytestmark = pytest.mark.django_db


def create(name: str = "b", **values: Any) -> Peer:
    return Peer.objects.create(
        **({"name": name, "url": f"ws://{name}.example/", "secret": SECRET} | values)
    )


def position(peer: Peer) -> Position:
    return store.load_position(store.config_of(Peer.objects.get(pk=peer.pk)))


def status(peer: Peer) -> PeerStatus:
    return PeerStatus.objects.get(peer=peer)


# Peers


def test_a_link_gets_what_it_has_to_know(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    peer = create(topics="news\nweather", enabled_at=BEGUN)
    with django_assert_num_queries(1):
        found = store.load_peers()
    assert found == [
        PeerConfig(
            id=peer.pk,
            name="b",
            url="ws://b.example/",
            secret=SECRET,
            topics=("news", "weather"),
            enabled_at=BEGUN.timestamp(),
        )
    ]
    assert SECRET not in repr(found)


def test_a_secret_for_the_url_is_put_there_and_nowhere_else() -> None:
    create(url=f"ws://b.example/?token={SECRET}")
    [config] = store.load_peers()
    assert (config.url, config.secret) == (f"ws://b.example/?token={SECRET}", "")
    assert SECRET not in repr(config)


def test_only_peers_that_are_enabled_and_sent_to_are_loaded_by_name() -> None:
    create("d")
    create("c", accept=False)
    create("off", enabled=False)
    create("silent", forward=False)
    assert [config.name for config in store.load_peers()] == ["c", "d"]


def test_a_change_that_links_need_not_know_of_leaves_the_config_equal() -> None:
    create()
    before = store.load_peers()
    Peer.objects.update(accept=False)
    Peer.objects.get().save()
    assert store.load_peers() == before
    peer = Peer.objects.get()
    peer.secret = SECRET + "-2"
    peer.save()
    assert store.load_peers() != before


def test_disabled_and_enabled_again_between_two_looks_is_a_change() -> None:
    create(enabled_at=BEGUN)
    before = store.load_peers()
    Peer.objects.disable()
    Peer.objects.enable()
    assert store.load_peers() != before


def test_a_peer_whose_secret_is_lost_is_left_out_and_logged_once(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    create("lost")
    settings.SECRET_KEY = "new" * 20
    create("fine")
    with caplog.at_level(logging.ERROR, "dwsps_channels.peering"):
        reported: dict[int, str] = {}
        for _ in range(3):
            assert [config.name for config in store.load_peers(reported)] == ["fine"]
        assert [("'lost'" in record.getMessage()) for record in caplog.records] == [True]
        # Another reason is news, and so is the same one after it was readable meanwhile.
        Peer.objects.filter(name="lost").update(secret="")
        store.load_peers(reported)
        assert "it has no secret" in caplog.records[-1].getMessage()
        Peer.objects.filter(name="lost").update(dwsps=True)
        store.load_peers(reported)
        Peer.objects.filter(name="lost").update(dwsps=False)
        store.load_peers(reported)
        assert len(caplog.records) == 3


# Statuses


def test_what_was_written_is_what_is_there() -> None:
    peer = create()
    link = LinkStatus(
        state=LinkState.CONNECTED,
        since=BEGUN.timestamp(),
        last_error="a\x00\n" + "x" * 1000,
        round_trip=0.012,
        stats=LinkStats(
            waiting=1,
            in_flight=3,
            forwarded=2**40,
            acked=5,
            resent=2,
            dropped=3,
            missed=1,
            reconnects=6,
        ),
        position=Position("epoch:12", 1.5),
        lag=2**40,
        oldest_at=1e9,
    )
    store.write_statuses({peer.pk: link})
    got = status(peer)
    assert (got.state, got.since, got.round_trip) == ("connected", BEGUN, 0.012)
    assert (got.forwarded, got.acked, got.lag) == (2**40, 5, 2**40)
    assert got.oldest_at == 1e9
    assert (got.dropped, got.missed, got.resent, got.reconnects) == (3, 1, 2, 6)
    assert got.last_error == "a  " + "x" * 496 + "…"
    assert got.seen_at is not None
    assert position(peer) == Position("epoch:12", 1.5)


def test_a_second_writing_replaces_the_first_and_takes_few_queries(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    peers = [create(f"b{number}") for number in range(20)]
    store.write_statuses({peer.pk: LinkStatus(lag=1) for peer in peers})
    with django_assert_num_queries(4):
        store.write_statuses({peer.pk: LinkStatus(lag=peer.pk) for peer in peers})
    assert {row.pk: row.lag for row in PeerStatus.objects.all()} == {
        peer.pk: peer.pk for peer in peers
    }


def test_a_position_from_before_it_was_enabled_is_none() -> None:
    peer = create()
    store.write_statuses({peer.pk: LinkStatus(position=Position("e:1", 1.0))})
    assert position(peer) == Position("e:1", 1.0)
    enabled_at = timezone.now()
    Peer.objects.update(enabled_at=enabled_at)
    assert position(peer) == Position("", enabled_at.timestamp())
    store.write_statuses({peer.pk: LinkStatus(position=Position("e:5", 5.0))})
    assert position(peer) == Position("e:5", 5.0)


def test_a_position_that_nobody_wrote_is_the_moment_at_which_it_was_enabled() -> None:
    peer = create(enabled_at=BEGUN)
    assert position(peer) == Position("", BEGUN.timestamp())
    store.write_statuses({peer.pk: LinkStatus()})
    assert position(peer) == Position("", BEGUN.timestamp())


def test_a_worker_without_the_lease_writes_nothing() -> None:
    peer = create()
    assert not store.write_for("one", {peer.pk: LinkStatus(lag=1)})
    assert lease.acquire("one", 60)
    assert store.write_for("one", {peer.pk: LinkStatus(lag=2)})
    Lease.objects.update(expires_at=BEGUN)
    # It has ended, but nobody else has taken it.
    assert store.write_for("one", {peer.pk: LinkStatus(lag=3)})
    assert lease.acquire("two", 60)
    assert not store.write_for("one", {peer.pk: LinkStatus(lag=4)})
    assert status(peer).lag == 3


def test_nothing_is_written_of_a_peer_that_is_gone_and_the_others_are_told_of() -> None:
    gone, there = create("gone"), create("there")
    gone_id = gone.pk
    gone.delete()
    store.write_statuses({gone_id: LinkStatus(), there.pk: LinkStatus(lag=7)})
    assert [row.lag for row in PeerStatus.objects.all()] == [7]


@pytest.mark.parametrize("change", [{"enabled": False}, {"forward": False}])
def test_a_peer_that_is_not_sent_to_reads_as_disabled_once_and_keeps_its_cursor(
    change: dict[str, bool],
) -> None:
    peer = create()
    link = LinkStatus(
        LinkState.CONNECTED, round_trip=0.1, lag=3, oldest_at=1.0, position=Position("e:1", 1.0)
    )
    store.write_statuses({peer.pk: link})
    Peer.objects.update(**change)
    store.write_statuses({peer.pk: link})
    got = status(peer)
    assert (got.state, got.lag, got.oldest_at, got.round_trip) == ("disabled", 0, None, None)
    assert (got.position, got.position_at) == ("e:1", 1.0)
    store.write_statuses({})
    assert status(peer).since == got.since


def test_a_status_leaves_the_peers_row_alone() -> None:
    peer = create()
    before = Peer.objects.values().get()
    store.write_statuses({peer.pk: LinkStatus(LinkState.CONNECTED)})
    assert Peer.objects.values().get() == before
