"""Look-ups of users, in a project whose reads go to a replica that lags."""

from collections.abc import Callable
from copy import copy

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client, override_settings

from dwsps_channels.server import logins
from dwsps_channels.server.logins import SessionLogin, UserLogin

pytestmark = pytest.mark.django_db


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ann", password="secret")


@pytest.mark.parametrize(
    ("change", "is_somebody"),
    [
        (lambda user: None, True),
        (lambda user: user.set_password("other"), False),
        (lambda user: setattr(user, "is_active", False), False),
    ],
)
def test_the_replica_is_not_believed(
    user: User,
    change: Callable[[User], None],
    is_somebody: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    browser = Client()
    browser.force_login(user)
    key = browser.session.session_key
    assert key is not None
    by_session, by_token = SessionLogin(key), UserLogin(user)
    old = copy(user)
    old._state = copy(user._state)
    old._state.db = "replica"
    change(user)
    user.save()
    # As the replica has it still.
    monkeypatch.setattr(logins, "get_user", lambda request: old)
    for login in (by_session, by_token):
        found = login.look_up()
        assert (found.user is not None) is is_somebody
        assert found.is_there
        assert found.user is None or found.user._state.db == "default"


def test_a_secret_key_that_was_replaced_counts(user: User) -> None:
    login = UserLogin(user)
    with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
        assert login.look_up().user == user
    with override_settings(SECRET_KEY="another"):
        assert login.look_up().user is None


def test_a_deleted_user_is_nobody(user: User) -> None:
    login = UserLogin(user)
    User.objects.filter(pk=user.pk).delete()
    assert login.look_up().user is None
