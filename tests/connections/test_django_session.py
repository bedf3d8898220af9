"""The Django session that a client came with."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.test import override_settings
from django.utils.functional import SimpleLazyObject

from dwsps_channels.connections.django_session import (
    expiry_of,
    loaded_session_in,
    open_store,
    session_key_of,
)


def key_in(scope: dict[str, Any]) -> str | None:
    return session_key_of(loaded_session_in(scope))


def test_the_session_is_one_that_was_loaded() -> None:
    loaded = SimpleLazyObject(lambda: SessionStore("abcdefgh"))
    assert loaded.session_key == "abcdefgh"

    assert key_in({}) is None
    assert key_in({"session": SessionStore()}) is None
    assert key_in({"session": SessionStore("abcdefgh")}) == "abcdefgh"
    assert key_in({"session": loaded}) == "abcdefgh"
    assert key_in({"session": SimpleLazyObject(must_not_be_loaded)}) is None


def must_not_be_loaded() -> SessionStore:
    raise AssertionError


@pytest.mark.django_db
@pytest.mark.parametrize("engine", ["db", "cached_db"])
def test_a_session_in_the_database_tells_when_it_expires(engine: str) -> None:
    store = SessionStore()
    store["a"] = 1
    store.create()
    expires_at = datetime(2100, 1, 1, tzinfo=UTC)
    Session.objects.filter(session_key=store.session_key).update(expire_date=expires_at)

    with override_settings(SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}"):
        found = open_store(store.session_key)
        assert expiry_of(found) is None  # nobody has looked at it yet
        assert found.get("a") == 1

    assert expiry_of(found) == expires_at.timestamp()


@pytest.mark.parametrize("engine", ["cache", "file", "signed_cookies"])
def test_others_do_not(engine: str) -> None:
    with override_settings(SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}"):
        store = open_store("abcdefgh")
        store.get("a")
    assert expiry_of(store) is None
