"""Peers: what may be one, what is kept of it, and what follows from a change."""

import re
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection
from hypothesis import example, given
from hypothesis import strategies as st
from pytest_django import DjangoAssertNumQueries

from dwsps_channels.models import Peer, PeerStatus, ServerIdentity, server_id, validate_topics
from dwsps_channels.peers import credentials, secrets
from dwsps_channels.peers.secrets import generate, validate_secret
from dwsps_channels.peers.urls import split_token, validate_url, with_token
from tests.processes import ROOT, base_environment

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


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "ws://b.example",
        "wss://b.example/ws/pubsub/",
        "ws://127.0.0.1:8001/",
        "ws://[::1]:8001/",
        "ws://10.0.0.7/",
        "ws://b.example/?room=5&x",
        "ws://b.example/?room=5&token=" + SECRET,
        "WSS://b.example/",
    ],
)
def test_a_link_may_connect_to(url: str) -> None:
    validate_url(url)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", "scheme"),
        ("b.example", "scheme"),
        ("http://b.example/", "scheme"),
        ("https://b.example/", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("ws:///path", "url"),
        ("ws://", "url"),
        ("ws://b.example:0x50/", "url"),
        ("ws://b.example:99999/", "url"),
        ("ws://[::1/", "url"),
        ("ws://b .example/", "url"),
        ("ws://b.example/\n", "url"),
        ("ws://user@b.example/", "userinfo"),
        ("ws://user:password@b.example/", "userinfo"),
        ("ws://@b.example/", "userinfo"),
        ("ws://b.example/#", "fragment"),
        ("ws://b.example/?token=x#part", "fragment"),
        ("ws://b.example/?access_token=x", "credential"),
        ("ws://b.example/?a=b&API-key=x", "credential"),
        ("ws://b.example/?%70assword=x", "credential"),
        ("ws://b.example/?Token=x", "credential"),
        ("ws://b.example/?key=x", "credential"),
        ("ws://169.254.169.254/", "link_local"),
        ("ws://[fe80::1]/", "link_local"),
        ("ws://[fe80::1%25eth0]/", "link_local"),
        ("ws://[::ffff:169.254.169.254]/", "link_local"),
        ("ws://2852039166/", "link_local"),
        ("ws://0xa9fea9fe/", "link_local"),
        ("ws://0251.0376.0251.0376/", "link_local"),
        ("ws://169.254.43518/", "link_local"),
    ],
)
def test_a_link_does_not_connect_to(url: str, code: str) -> None:
    with pytest.raises(ValidationError) as caught:
        validate_url(url)
    assert caught.value.code == code


@given(
    st.one_of(
        st.text(),
        st.from_regex(r"wss?://[^/]{0,20}/.{0,20}"),
        st.builds(
            "{}://{}{}{}".format,
            st.sampled_from(["ws", "wss"]),
            st.text(st.sampled_from("[]:%@.0x9ab\u0661/\\ \n"), max_size=20),
            st.sampled_from(["", ":", ":\u0663", ":-1", ":99999"]),
            st.text(st.sampled_from("?&=#token%/"), max_size=20),
        ),
    )
)
@example("ws://\ud800/")
@example("ws://[v1.x]/")
@example("ws://x/?" + "&" * 1000)
def test_whatever_is_typed_as_a_url_is_valid_or_a_validation_error(url: str) -> None:
    try:
        validate_url(url)
    except ValidationError:
        pass
    else:
        assert re.match("wss?://", url, re.I)
        without, _ = split_token(url)
        assert split_token(without) == (without, None)


@given(st.text(st.sampled_from("?&=#token%74/:ab +"), max_size=40))
def test_nothing_is_left_of_a_token_that_was_taken_out(text: str) -> None:
    without, token = split_token("ws://b.example/" + text)
    assert split_token(without) == (without, None)
    assert (token is None) == (without == "ws://b.example/" + text)


@given(
    st.sampled_from(["ws://b.example", "ws://b.example/", "ws://b.example/?a=%20b&c"]),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1),
)
def test_a_token_that_is_put_back_is_the_one_that_was_taken_out(url: str, token: str) -> None:
    assert split_token(with_token(url, token)) == (url, token)


def test_a_url_error_repeats_no_password() -> None:
    for url in ("ws://me:hunter2hunter2@b/", "ws://b:hunter2hunter2/", "ws://b/?password=hunter2"):
        with pytest.raises(ValidationError) as caught:
            validate_url(url)
        assert "hunter2" not in str(caught.value)


# The secret


@pytest.mark.parametrize(
    ("secret", "code"),
    [
        ("x" * 15, "too_short"),
        ("x" * 257, "too_long"),
        ("correct horse battery", "characters"),
        ("correct-hörse-battery", "characters"),
        ("correct-horse-battery\n", "characters"),
        ("worker.correct-horse-battery", "prefix"),
        ("fernet:correct-horse-battery", "prefix"),
    ],
)
def test_some_secrets_are_refused_and_not_repeated(db: None, secret: str, code: str) -> None:
    with pytest.raises(ValidationError) as caught:
        validate_secret(secret)
    assert caught.value.code == code
    assert secret not in str(caught.value)
    if code != "prefix":
        assert problems(make(secret=secret)) == {"secret"}


def test_generated_secrets_are_good_ones_and_differ() -> None:
    made = {generate() for _ in range(100)}
    assert len(made) == 100
    for secret in made:
        validate_secret(secret)


def test_no_secret_can_be_taken_for_a_workers_credential() -> None:
    assert credentials.sign_worker().startswith(secrets.WORKER_PREFIX)


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
    {"url": "ws://c.example/"},
    {"secret": SECRET + "-2"},
    {"secret_in_url": True},
    {"enabled": False},
    {"forward": False},
    {"accept": False},
    {"topics": "news"},
]


def test_every_field_is_among_the_changes() -> None:
    assert {field for change in CHANGES for field in change} == Peer.MATTERS
    assert {field.name for field in Peer._meta.fields} > Peer.MATTERS


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_change_grows_the_revision_however_it_is_made(db: None, change: dict[str, Any]) -> None:
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
            case "update":
                Peer.objects.filter(pk=peer.pk).update(**change)
            case "bulk_update":
                Peer.objects.bulk_update([peer], list(change))
        now = Peer.objects.get(pk=peer.pk)
        assert now.revision == 2, way
        assert now.enabled_at == LONG_AGO, way
        for field, value in change.items():
            assert getattr(now, field) == value, way


def test_a_save_that_changes_nothing_leaves_the_revision(db: None) -> None:
    peer = create()
    peer.save()
    assert Peer.objects.get().revision == 1


def test_a_stale_copy_that_is_saved_takes_no_revision_back(db: None) -> None:
    stale = create()
    Peer.objects.update(topics="news")
    stale.save()
    assert Peer.objects.get().revision == 3


@pytest.mark.parametrize("field", ["enabled", "forward"])
def test_since_when_it_is_sent_to_begins_anew_when_it_is_again(db: None, field: str) -> None:
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
    assert {peer.name: peer.revision for peer in Peer.objects.all()} == {"on": 3, "off": 2}


def test_an_update_of_nothing_that_matters_is_left_alone(
    db: None, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    create()
    with django_assert_num_queries(1):
        Peer.objects.update(created_at=LONG_AGO)
    assert Peer.objects.get().revision == 1


def test_the_status_goes_with_its_peer(db: None) -> None:
    peer = create()
    PeerStatus.objects.create(peer=peer)
    peer.delete()
    assert not PeerStatus.objects.exists()


# The server's id


def test_the_server_has_one_id(db: None) -> None:
    assert re.fullmatch("[0-9a-f]{32}", server_id())
    assert server_id() == server_id()
    assert ServerIdentity.objects.count() == 1


def test_processes_that_ask_for_the_id_at_once_get_the_same(database: Path) -> None:
    program = (
        "import django; django.setup(); import sys; from dwsps_channels.models import server_id; "
        "print('ready', flush=True); sys.stdin.readline(); print(server_id())"
    )
    env = base_environment(database) | {"DJANGO_SETTINGS_MODULE": "project.settings"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        ids = {child.communicate(timeout=20)[0] for child in children}
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert len(ids) == 1
    assert re.fullmatch("[0-9a-f]{32}\n", ids.pop())
