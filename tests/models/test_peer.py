"""Peers: what may be one, what is kept of it, and what follows from a change."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import DjangoAssertNumQueries

from dwsps_channels.models import Peer, PeerStatus
from dwsps_channels.models.topics import validate_topics
from dwsps_channels.models.urls import split_token, with_token
from dwsps_channels.peering import store

SECRET = "correct-horse-battery-staple"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def make(**values: Any) -> Peer:
    return Peer(**({"name": "b", "url": "ws://b.example/", "secret": SECRET} | values))


def create(**values: Any) -> Peer:
    """A valid row, as it is after a while."""
    peer = make(**values)
    peer.full_clean()
    peer.save()
    Peer.objects.filter(pk=peer.pk).update(enabled_at=LONG_AGO)
    peer.refresh_from_db()
    return peer


def problems(peer: Peer) -> set[str]:
    try:
        peer.full_clean()
    except ValidationError as error:
        return set(error.message_dict)
    return set()


# Names


@pytest.mark.parametrize("name", ["b", "B-2.example_org", "x" * 64])
def test_a_name_is_one_that_a_server_may_have(db: None, name: str) -> None:
    assert problems(make(name=name)) == set()


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "ü", "a\n", "a/b", "<b>", "a'b"])
def test_other_names_are_refused(db: None, name: str) -> None:
    assert problems(make(name=name)) == {"name"}


def test_a_name_is_given_once(db: None) -> None:
    create()
    assert problems(make()) == {"name"}
    with pytest.raises(IntegrityError):
        make().save()


# The URL and the secret


def test_the_secret_is_in_no_text_of_a_peer(db: None) -> None:
    peer = create(url=f"ws://b.example/?token={SECRET}")
    shown = [str(peer), repr(peer), peer.url, peer.shown_url, repr(Peer.objects.all())]
    assert SECRET not in " ".join(shown)


def test_a_token_in_the_url_becomes_the_secret_and_goes_back_when_a_link_connects(
    db: None,
) -> None:
    token = "a&b=c/d+e?f#g%20 h".replace(" ", "") + "0123456789"
    peer = make(secret="", url=with_token("ws://b.example/?room=5", token))
    peer.full_clean()
    peer.save()
    peer.refresh_from_db()
    assert peer.url == peer.shown_url == "ws://b.example/?room=5"
    assert (peer.secret, peer.secret_in_url) == (token, True)
    assert split_token(peer.connect_url) == ("ws://b.example/?room=5", token)


def test_a_token_is_taken_out_by_save_alone(db: None) -> None:
    peer = create()
    peer.url = "ws://c.example/?token=0123456789abcdef"
    peer.save(update_fields=["url"])
    peer.refresh_from_db()
    assert (peer.url, peer.secret, peer.secret_in_url) == (
        "ws://c.example/",
        "0123456789abcdef",
        True,
    )


def test_a_token_is_judged_as_a_secret_is(db: None) -> None:
    assert problems(make(secret="", url="ws://b.example/?token=short")) == {"secret"}


def test_an_empty_token_is_none(db: None) -> None:
    peer = create(url="ws://b.example/?token=")
    assert (peer.url, peer.secret, peer.secret_in_url) == ("ws://b.example/", SECRET, False)


def test_a_secret_that_goes_in_the_header_is_not_in_the_url(db: None) -> None:
    assert make().connect_url == "ws://b.example/"


# The secret is one server's


OTHER_SERVERS = ("wss://b.example/", "ws://c.example/", "ws://b.example:81/", "ws://b.example.c/")
THE_SAME = ("ws://b.example/ws/", "ws://B.EXAMPLE:80/?room=1", "ws://b.example/")


@pytest.mark.parametrize("url", OTHER_SERVERS)
def test_a_change_of_the_address_asks_for_the_secret(db: None, url: str) -> None:
    peer = create()
    peer.url = url
    assert problems(peer) == {"secret"}
    for options in ({}, {"update_fields": ["url"]}):
        with pytest.raises(ValidationError, match="the address has changed"):
            peer.save(**options)
    assert Peer.objects.get().url == "ws://b.example/"
    # Whoever knows it may set the same again.
    peer.secret = SECRET
    peer.full_clean()
    peer.save(update_fields=["url"])
    now = Peer.objects.get()
    assert (now.url, now.secret) == (url, SECRET)


def test_a_secret_and_the_address_that_it_is_bound_to_are_written_together(db: None) -> None:
    peer = create()
    peer.url, peer.secret = "wss://c.example/", "another secret, set for it"
    peer.save(update_fields=["secret"])
    now = Peer.objects.get()
    assert (now.url, now.secret) == (peer.url, peer.secret)


@pytest.mark.parametrize("url", THE_SAME)
def test_a_change_of_the_path_does_not(db: None, url: str) -> None:
    peer = create()
    peer.url = url
    peer.full_clean()
    peer.save()
    assert (Peer.objects.get().url, Peer.objects.get().secret) == (url, SECRET)


@pytest.mark.parametrize("url", OTHER_SERVERS)
def test_past_the_model_the_secret_is_lost_and_not_sent(db: None, url: str) -> None:
    create()
    Peer.objects.update(url=url)
    peer = Peer.objects.get()
    assert peer.has_lost_secret
    assert peer.connect_url == url
    assert store.load_peers() == []
    # A save of it makes nothing of it, and the old address all.
    peer.save()
    Peer.objects.update(url="ws://b.example/")
    assert Peer.objects.get().secret == SECRET


def test_the_secret_of_a_row_is_of_no_use_in_another(db: None) -> None:
    """An attacker who writes to the database and does not have SECRET_KEY."""
    create(name="one")
    create(name="two", secret=SECRET + "-2")
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, secret FROM dwsps_channels_peer ORDER BY name")
        (one, of_one), (two, of_two) = cursor.fetchall()
        for pk, secret in ((one, of_two), (two, of_one)):
            cursor.execute("UPDATE dwsps_channels_peer SET secret = %s WHERE id = %s", [secret, pk])
    assert all(peer.has_lost_secret for peer in Peer.objects.all())
    assert store.load_peers() == []


def test_a_peer_needs_a_secret_unless_it_is_a_dwsps_server(db: None) -> None:
    assert problems(make(secret="")) == {"secret"}
    assert problems(make(secret="", enabled=False, forward=False)) == {"secret"}
    assert problems(make(secret="", dwsps=True)) == set()
    # A row that came past validation is not forwarded to.
    make(secret="").save()
    assert store.load_peers() == []


def test_a_row_that_is_loaded_in_part_has_its_secret_all_the_same(db: None) -> None:
    create()
    assert Peer.objects.only("name").get().secret == SECRET
    assert Peer.objects.defer("url", "uid").get().secret == SECRET
    PeerStatus.objects.create(peer=Peer.objects.get())
    assert PeerStatus.objects.select_related("peer").get().peer.secret == SECRET


# Topics


def test_topics_are_one_a_line_and_each_is_kept_once(db: None) -> None:
    peer = create(topics="  news \r\n\r\nweather.uk\nnews\n")
    assert peer.topics == "news\nweather.uk"
    assert peer.topic_list == ("news", "weather.uk")


def test_no_topics_are_all(db: None) -> None:
    assert create(topics=" \n ").topic_list == ()


@given(st.text())
def test_whatever_is_typed_as_topics_is_valid_or_a_validation_error(text: str) -> None:
    with suppress(ValidationError):
        validate_topics(text)


def test_a_line_that_is_no_topic_is_named(db: None) -> None:
    with pytest.raises(ValidationError, match=r"'a\.\.b' has an empty level"):
        make(topics="news\na..b").full_clean()


# What follows from a change

CHANGES: list[dict[str, Any]] = [
    {"name": "c"},
    {"url": "ws://b.example/elsewhere/"},
    {"secret": SECRET + "-2"},
    {"secret_in_url": True},
    {"dwsps": True},
    {"enabled": False},
    {"forward": False},
    {"accept": False},
    {"topics": "news"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_change_is_stored_and_leaves_enabled_at_however_it_is_made(
    db: None, change: dict[str, Any]
) -> None:
    for way in ("save", "save one field", "update", "bulk_update"):
        Peer.objects.all().delete()
        peer = create()
        for field, value in change.items():
            setattr(peer, field, value)
        match way:
            case "save":
                peer.save()
            case "save one field":
                peer.save(update_fields=list(change))
            case _ if "secret" in change:
                continue  # these cannot: see the tests of encryption
            case "update":
                Peer.objects.filter(pk=peer.pk).update(**change)
            case "bulk_update":
                Peer.objects.bulk_update([peer], list(change))
        now = Peer.objects.get(pk=peer.pk)
        assert now.enabled_at == LONG_AGO, way
        for field, value in change.items():
            assert getattr(now, field) == value, way


def test_a_stale_copy_that_is_saved_does_not_take_enabled_at_back(db: None) -> None:
    stale = create()
    Peer.objects.disable()
    Peer.objects.enable()
    begun = Peer.objects.get().enabled_at
    stale.topics = "news"
    stale.save()
    assert Peer.objects.get().enabled_at == begun > LONG_AGO


@pytest.mark.parametrize("field", ["enabled", "forward"])
def test_enabled_at_is_set_when_it_is_sent_to_again(db: None, field: str) -> None:
    def restart_by_save(peer: Peer) -> None:
        setattr(peer, field, True)
        peer.save(update_fields=[field])

    def restart_by_update(peer: Peer) -> None:
        Peer.objects.update(**{field: True})

    for restart in (restart_by_save, restart_by_update):
        Peer.objects.all().delete()
        peer = create(**{field: False})
        restart(peer)
        begun = Peer.objects.get().enabled_at
        assert begun > LONG_AGO
        restart(peer)
        assert Peer.objects.get().enabled_at == begun


def test_enabling_asks_for_the_values_before_the_change(db: None) -> None:
    """MySQL makes the assignments in their order, so the one that asks is to come first."""
    with connection.execute_wrapper(record := Recorder()):
        Peer.objects.update(enabled=True)
    [sql] = record.statements
    assert sql.index('"enabled_at" = CASE') < sql.index('"enabled" = ')


class Recorder:
    def __init__(self) -> None:
        self.statements: list[str] = []

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        self.statements.append(sql)
        return execute(sql, params, many, context)


def test_enable_and_disable_count_and_touch_only_those_that_were_not(db: None) -> None:
    create(name="on")
    create(name="off", enabled=False)
    assert Peer.objects.disable() == 1
    assert Peer.objects.disable() == 0
    assert Peer.objects.enable() == 2
    assert {peer.enabled for peer in Peer.objects.all()} == {True}


def test_an_update_is_one_query(
    db: None, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    create()
    with django_assert_num_queries(1):
        Peer.objects.update(topics="news")
    with django_assert_num_queries(1):
        Peer.objects.update(enabled=False)


def test_the_status_goes_with_its_peer(db: None) -> None:
    peer = create()
    PeerStatus.objects.create(peer=peer)
    peer.delete()
    assert not PeerStatus.objects.exists()
