"""The worker's side of the database."""

import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from dwsps_channels.models import Peer, PeerStatus
from dwsps_channels.peering import store
from dwsps_channels.peering.outbound.config import PeerConfig
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStats, LinkStatus

SECRET = "correct-horse-battery-staple"
BEGUN = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)


pytestmark = pytest.mark.django_db


def create(name: str = "b", **values: Any) -> Peer:
    return Peer.objects.create(
        **({"name": name, "url": f"ws://{name}.example/", "secret": SECRET} | values)
    )


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
        cursor={"0" * 32: 2**53},
    )
    store.write_statuses({peer.pk: link})
    got = status(peer)
    assert (got.state, got.since, got.round_trip) == ("connected", BEGUN, 0.012)
    assert (got.forwarded, got.acked) == (2**40, 5)
    assert (got.dropped, got.missed, got.resent, got.reconnects) == (3, 1, 2, 6)
    assert got.last_error == "a  " + "x" * 496 + "…"
    assert got.seen_at is not None
    assert store.load_cursor(peer.pk) == {"0" * 32: 2**53}


def test_a_second_writing_replaces_the_first_and_takes_few_queries(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    peers = [create(f"b{number}") for number in range(20)]
    store.write_statuses({peer.pk: LinkStatus(stats=LinkStats(acked=1)) for peer in peers})
    with django_assert_num_queries(4):
        store.write_statuses(
            {peer.pk: LinkStatus(stats=LinkStats(acked=peer.pk)) for peer in peers}
        )
    assert {row.pk: row.acked for row in PeerStatus.objects.all()} == {
        peer.pk: peer.pk for peer in peers
    }


def test_a_cursor_from_before_it_was_enabled_is_none() -> None:
    peer = create()
    store.write_statuses({peer.pk: LinkStatus(cursor={"a": 1})})
    assert store.load_cursor(peer.pk) == {"a": 1}
    Peer.objects.update(enabled_at=timezone.now())
    assert store.load_cursor(peer.pk) == {}
    store.write_statuses({peer.pk: LinkStatus(cursor={"a": 5})})
    assert store.load_cursor(peer.pk) == {"a": 5}


def test_a_cursor_that_nobody_wrote_is_empty() -> None:
    assert store.load_cursor(create().pk) == {}
    assert store.load_cursor(12345) == {}


def test_nothing_is_written_of_a_peer_that_is_gone_and_the_others_are_told_of() -> None:
    gone, there = create("gone"), create("there")
    gone_id = gone.pk
    gone.delete()
    store.write_statuses({gone_id: LinkStatus(), there.pk: LinkStatus(stats=LinkStats(acked=7))})
    assert [row.acked for row in PeerStatus.objects.all()] == [7]


@pytest.mark.parametrize("change", [{"enabled": False}, {"forward": False}])
def test_a_peer_that_is_not_sent_to_reads_as_disabled_once_and_keeps_its_cursor(
    change: dict[str, bool],
) -> None:
    peer = create()
    link = LinkStatus(LinkState.CONNECTED, round_trip=0.1, cursor={"a": 1})
    store.write_statuses({peer.pk: link})
    PeerStatus.objects.update(lag=3, oldest_at=1.0)
    Peer.objects.update(**change)
    store.write_statuses({peer.pk: link})
    got = status(peer)
    assert (got.state, got.lag, got.oldest_at, got.round_trip) == ("disabled", 0, None, None)
    assert got.cursor == {"a": 1}
    store.write_statuses({})
    assert status(peer).since == got.since


def test_a_status_leaves_the_peers_row_alone() -> None:
    peer = create()
    before = Peer.objects.values().get()
    store.write_statuses({peer.pk: LinkStatus(LinkState.CONNECTED)})
    assert Peer.objects.values().get() == before
