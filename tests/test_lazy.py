"""Lazy users, and the look at them that makes no query."""

from typing import Any

from channels.auth import UserLazyObject
from django.contrib.auth.models import User
from django.utils.functional import SimpleLazyObject

from dwsps_channels.lazy import is_loaded


def test_what_is_not_lazy_is_loaded() -> None:
    assert is_loaded(User(pk=7))
    assert is_loaded(None)


def test_a_lazy_user_is_loaded_once_somebody_has_looked_at_it() -> None:
    lazy: Any = SimpleLazyObject(lambda: User(pk=7))
    assert not is_loaded(lazy)
    assert lazy.pk == 7
    assert is_loaded(lazy)


def test_a_lazy_user_of_channels_is_loaded_once_its_middleware_has_set_it() -> None:
    lazy: Any = UserLazyObject()
    assert not is_loaded(lazy)
    lazy._wrapped = User(pk=7)
    assert is_loaded(lazy)
