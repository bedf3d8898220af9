"""Text that is plain in Python, and encrypted in the database and in fixtures."""

import json
import pickle
from copy import deepcopy
from io import StringIO
from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.core.management import call_command
from django.core.serializers import deserialize
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.models import Peer, encryption
from dwsps_channels.models.encryption import PREFIX, Unreadable, decrypt, encrypt

SECRET = "correct-horse-battery-staple"
ROW = b"a row"


@pytest.fixture
def peer(db: None) -> Peer:
    return Peer.objects.create(name="b", url="ws://b.example/", secret=SECRET)


def stored(peer: Peer) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT secret FROM dwsps_channels_peer WHERE id = %s", [peer.pk])
        text: str = cursor.fetchone()[0]
    return text


def read(peer: Peer) -> str:
    return Peer.objects.get(pk=peer.pk).secret


# At rest


def test_the_database_holds_nothing_of_the_text(peer: Peer) -> None:
    assert stored(peer).startswith(PREFIX)
    assert SECRET not in stored(peer)
    assert read(peer) == SECRET


def test_no_text_stays_none(db: None) -> None:
    peer = Peer.objects.create(name="b", url="ws://b.example/")
    assert stored(peer) == ""
    assert read(peer) == ""
    assert not peer.has_lost_secret


def test_the_same_text_is_never_stored_alike() -> None:
    assert encrypt(SECRET, ROW) != encrypt(SECRET, ROW)


def test_in_another_context_it_is_unreadable() -> None:
    assert decrypt(encrypt(SECRET, ROW), ROW) == SECRET
    assert isinstance(decrypt(encrypt(SECRET, ROW), b"another row"), Unreadable)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back(text: str) -> None:
    assert decrypt(encrypt(text, ROW), ROW) == text


@given(st.text())
def test_what_was_not_written_by_this_field_is_unreadable_and_no_error(text: str) -> None:
    for garbage in (text, PREFIX + text):
        read = decrypt(garbage, ROW)
        assert read == ""
        assert not garbage or isinstance(read, Unreadable)


def test_the_key_is_not_the_one_that_others_would_derive(settings: Any) -> None:
    """Two fields of two apps under one SECRET_KEY do not read each other."""
    key = settings.SECRET_KEY.encode()
    assert encryption._derived(key) == encryption._derived(settings.SECRET_KEY)
    assert key not in encryption._derived(key)


# Keys that change


def test_a_fallback_still_reads_what_the_old_key_wrote(peer: Peer, settings: Any) -> None:
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "new" * 20
    assert read(peer) == SECRET


def test_what_is_written_again_no_longer_needs_the_fallback(peer: Peer, settings: Any) -> None:
    settings.SECRET_KEY_FALLBACKS = ["even older", settings.SECRET_KEY]
    settings.SECRET_KEY = "new" * 20
    Peer.objects.get(pk=peer.pk).save()
    settings.SECRET_KEY_FALLBACKS = []
    assert read(peer) == SECRET


def test_without_its_key_a_text_is_told_apart_from_none_and_equals_no_secret(
    peer: Peer, settings: Any
) -> None:
    settings.SECRET_KEY = "new" * 20
    lost = Peer.objects.get(pk=peer.pk)
    assert lost.has_lost_secret
    assert not lost.secret
    assert [each.name for each in Peer.objects.all()] == ["b"]


def test_a_lost_text_outlives_a_save_and_comes_back_with_its_key(peer: Peer, settings: Any) -> None:
    old, settings.SECRET_KEY = settings.SECRET_KEY, "new" * 20
    lost = Peer.objects.get(pk=peer.pk)
    lost.topics = "news"
    lost.full_clean()
    lost.save()
    settings.SECRET_KEY_FALLBACKS = [old]
    assert read(peer) == SECRET


def test_what_was_tampered_with_is_unreadable(peer: Peer) -> None:
    text = stored(peer)
    assert not isinstance(decrypt(text, peer.encryption_context()), Unreadable)
    changed = text[:40] + ("A" if text[40] != "A" else "B") + text[41:]
    assert isinstance(decrypt(changed, peer.encryption_context()), Unreadable)


def test_an_unreadable_text_can_be_copied_and_shows_nothing() -> None:
    lost = Unreadable("aesgcm:abc")
    for copied in (deepcopy(lost), pickle.loads(pickle.dumps(lost))):
        assert isinstance(copied, Unreadable)
        assert copied.stored == "aesgcm:abc"
    assert "abc" not in repr(lost) + str(lost)


# Ways around the model


def test_it_cannot_be_looked_up(peer: Peer) -> None:
    with pytest.raises(FieldError):
        Peer.objects.filter(secret=SECRET).exists()
    with pytest.raises(FieldError):
        Peer.objects.filter(secret__startswith="correct").exists()
    assert not Peer.objects.filter(secret__isnull=True).exists()


def test_update_and_bulk_update_cannot_set_it(peer: Peer) -> None:
    """They know no row that it could be bound to; it is not written as it is, either."""
    with pytest.raises(TypeError, match="bound to its row"):
        Peer.objects.update(secret=SECRET + "-2")
    peer.secret = SECRET + "-3"
    with pytest.raises(TypeError, match="bound to its row"):
        Peer.objects.bulk_update([peer], ["secret"])
    assert read(peer) == SECRET
    Peer.objects.update(secret="")
    assert read(peer) == ""


def test_bulk_create_encrypts_too(db: None) -> None:
    [peer] = Peer.objects.bulk_create([Peer(name="b", url="ws://b.example/", secret=SECRET)])
    assert SECRET not in stored(peer)
    assert read(peer) == SECRET


def test_values_are_as_they_are_stored(peer: Peer) -> None:
    assert Peer.objects.values_list("secret", flat=True).get() == stored(peer)


def test_a_fixture_holds_it_encrypted_and_loads(peer: Peer) -> None:
    out = StringIO()
    call_command("dumpdata", "dwsps_channels.peer", stdout=out)
    assert SECRET not in out.getvalue()
    assert json.loads(out.getvalue())[0]["fields"]["secret"].startswith(PREFIX)

    Peer.objects.all().delete()
    for loaded in deserialize("json", out.getvalue()):
        loaded.save()
    assert read(peer) == SECRET


def test_a_fixture_of_another_project_loads_without_its_secret(peer: Peer, settings: Any) -> None:
    out = StringIO()
    call_command("dumpdata", "dwsps_channels.peer", stdout=out)
    settings.SECRET_KEY = "new" * 20
    for loaded in deserialize("json", out.getvalue()):
        loaded.save()
    assert Peer.objects.get(pk=peer.pk).has_lost_secret
