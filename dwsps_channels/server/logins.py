"""The ways in which clients are logged in, by which their users can be looked up again."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY, get_user
from django.db import router
from django.db.models import Model
from django.utils.crypto import constant_time_compare

from dwsps_channels.connections.django_session import expiry_of, open_store, session_key_of
from dwsps_channels.lazy import is_loaded


class Found(NamedTuple):
    """The outcome of a look-up."""

    user: Any
    """The user as it is now; ``None``: the client is nobody any more."""
    is_there: bool = True
    """False if the session has gone: it was deleted, has expired, or has another key now."""
    expires_at: float | None = None
    """When the session expires, in seconds since 1970; ``None``: that is not known."""


class Login(Protocol):
    """A way in which a client is logged in."""

    expires_at: float | None
    """See ``Found.expires_at``."""

    def look_up(self) -> Found:
        """Look the user up again. It blocks, and queries the database."""


class SessionLogin:
    """A login by a Django session. Its key stays in the memory of this process."""

    def __init__(self, key: str, expires_at: float | None = None) -> None:
        self._key = key
        self.expires_at = expires_at

    def look_up(self) -> Found:
        """Look the session and its user up again: see ``Login.look_up``."""
        store = open_store(self._key)
        request: Any = SimpleNamespace(session=_ReadOnlySession(store))
        user: Any = get_user(request)
        is_there = session_key_of(store) == self._key
        if user.is_authenticated and user._state.db != router.db_for_write(type(user)):
            # A replica may lag: the change for which the user is looked up may not be there yet.
            user = _current(type(user), user.pk, store.get(HASH_SESSION_KEY, ""))
        else:
            user = user if user.is_authenticated else None
        return Found(user, is_there, expiry_of(store))


class UserLogin:
    """A login that this process cannot look up: by a token, or by the project's own middleware. The user it can."""

    def __init__(self, user: Any) -> None:
        """Take ``user``, an instance of a model."""
        self.expires_at: float | None = None
        self._model: type[Model] = user.__class__
        self._pk = user.pk
        self._hash = _auth_hash(user)

    def look_up(self) -> Found:
        """Look the user up again: see ``Login.look_up``. After a change of the password it is another."""
        return Found(_current(self._model, self._pk, self._hash))


def login_of(user: Any, session: Any = None) -> Login | None:
    """Return how ``user``, of the ASGI scope, is logged in; ``None``: nobody is, or the user cannot be looked up.

    ``session`` is the store of the scope, loaded; ``None``: the user has come without one. No query is made.
    """
    if not is_loaded(user):
        return None
    if not (isinstance(user, Model) and getattr(user, "is_authenticated", False)) or not user.pk:
        return None
    if (
        session_key_of(session)
        and hasattr(session, "_session_cache")
        and session.get(SESSION_KEY) == user._meta.pk.value_to_string(user)
    ):
        return SessionLogin(session.session_key, expiry_of(session))
    return UserLogin(user)


def _current(model: type[Model], pk: Any, auth_hash: str) -> Any:
    """Return the user as the database that is written to has it; ``None``: it may not log in any more."""
    user: Any = model._default_manager.using(router.db_for_write(model)).filter(pk=pk).first()
    if user is None or not getattr(user, "is_active", True):
        return None
    # As Django does after SECRET_KEY has changed.
    fallbacks: Iterable[str] = getattr(user, "get_session_auth_fallback_hash", tuple)()
    hashes = (_auth_hash(user), *fallbacks)
    return user if any(constant_time_compare(auth_hash, each) for each in hashes) else None


def _auth_hash(user: Any) -> str:
    get_hash = getattr(user, "get_session_auth_hash", None)
    return get_hash() if get_hash is not None else ""


class _ReadOnlySession:
    """A session as ``django.contrib.auth.get_user`` needs it, which changes nothing.

    A session that changes the password of its user has the old hash for a moment: it must not be removed meanwhile.
    """

    def __init__(self, session: Any) -> None:
        self.get = session.get
        self._session = session

    def __getitem__(self, key: str) -> Any:
        return self._session[key]

    def __setitem__(self, key: str, value: Any) -> None:
        """Keep the session as it is."""

    def cycle_key(self) -> None:
        """Keep the session as it is."""

    def flush(self) -> None:
        """Keep the session as it is."""
