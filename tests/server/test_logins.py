"""Look-ups of users: by which login, and in a project whose reads go to a replica that lags."""

from collections.abc import Callable
from copy import copy
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.test import Client, override_settings

from dwsps_channels.connections.django_session import open_store
from dwsps_channels.server import logins
from dwsps_channels.server.logins import SessionLogin, UserLogin, login_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ann", password="secret")


def session_of(user: User) -> Any:
    """Return the store of a session in which ``user`` has logged in, as a middleware loads it."""
    browser = Client()
    browser.force_login(user)
    store = open_store(browser.session.session_key)
    store.get("")  # loads it
    return store


def test_the_user_of_a_session_is_looked_up_by_it(user: User) -> None:
    assert isinstance(login_of(user, session_of(user)), SessionLogin)


def test_the_user_that_a_middleware_put_beside_anothers_session_stays_that_user(user: User) -> None:
    """A support team that looks at the site as somebody else, say."""
    other = User.objects.create_user("bob", password="secret")
    login = login_of(other, session_of(user))
    assert login is not None
    assert login.look_up().user == other


def test_a_session_that_nobody_has_loaded_is_not_loaded(
    user: User, django_assert_num_queries: Any
) -> None:
    key = session_of(user).session_key
    with django_assert_num_queries(0):
        assert isinstance(login_of(user, open_store(key)), UserLogin)


@pytest.mark.parametrize("nobody", [None, AnonymousUser(), User(username="new")])
def test_nobody_has_no_login(nobody: Any) -> None:
    assert login_of(nobody) is None


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
