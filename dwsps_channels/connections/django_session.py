"""The Django session that a client came with."""

from functools import cache
from importlib import import_module
from typing import Any

from django.conf import settings

from dwsps_channels.lazy import is_loaded


def open_store(key: str | None = None) -> Any:
    """Return the store of the session with this key, not loaded yet; ``None``: of no session."""
    return _store_class(settings.SESSION_ENGINE)(key)


@cache
def _store_class(engine: str) -> Any:
    base: Any = import_module(engine).SessionStore
    if not hasattr(base, "_get_session_from_db"):
        return base

    class DatedStore(base):  # type: ignore[misc]
        """Notes when the session expires: its row says that, and no method of Django's does."""

        dwsps_expires_at: float | None = None

        def _get_session_from_db(self) -> Any:
            row = super()._get_session_from_db()
            if row is not None:
                self.dwsps_expires_at = row.expire_date.timestamp()
            return row

    # Django signs what is in a session with the name of the class.
    DatedStore.__qualname__ = base.__qualname__
    return DatedStore


def loaded_session_in(scope: Any) -> Any:
    """Return the store that a middleware has put into the ASGI scope; ``None`` if it has put in none, or not loaded it."""
    session = scope.get("session")
    # If nobody has looked at it, the client came without a cookie.
    return session if is_loaded(session) else None


def session_key_of(session: Any) -> str | None:
    """Return the key of a store; ``None``: it is of no session."""
    return getattr(session, "session_key", None)


def expiry_of(session: Any) -> float | None:
    """Return when a session that was loaded expires, in seconds since 1970; ``None``: its store does not say."""
    expires_at: float | None = getattr(session, "dwsps_expires_at", None)
    return expires_at
