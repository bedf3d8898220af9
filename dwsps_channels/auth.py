"""The user of a connection, as Django's own views know it, for less where nobody is logged in."""

from types import SimpleNamespace
from typing import Any

from channels.auth import AuthMiddleware
from channels.sessions import CookieMiddleware, SessionMiddleware
from django.contrib.auth import get_user
from django.contrib.auth.models import AnonymousUser
from django.db import Error as DatabaseError

from dwsps_channels.connections.handshakes import (
    ClientGone,
    ReplayedReceive,
    unanswered,
    while_connected,
)
from dwsps_channels.threads.pools import Busy, look_up


class SessionUserMiddleware(AuthMiddleware):
    """Does as ``AuthMiddleware``, but looks up who presents a session cookie only, and in threads of its own.

    A server that was restarted has thousands of clients at once. Those without a cookie need no look-up. A look-up is
    dropped if its client goes away before it has begun; if there are too many of them, or the database is away, the
    handshake is answered with 503, and the client comes back later.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        scope = dict(scope)
        self.populate_scope(scope)
        session = scope["session"]
        if session.session_key is None:
            scope["user"]._wrapped = AnonymousUser()
        elif scope["type"] != "websocket":
            scope["user"]._wrapped = await look_up(_user_of, session)
        else:
            connect = await receive()
            try:
                user = await while_connected(receive, look_up(_user_of, session))
            except ClientGone:
                return None
            except (Busy, DatabaseError) as error:
                return await unanswered.reject(scope, send, error)
            scope["user"]._wrapped = user
            receive = ReplayedReceive(connect, receive)
        inner: Any = self.inner
        return await inner(scope, receive, send)


class _HandshakeSession:
    """A session as ``django.contrib.auth.get_user`` needs it.

    If SECRET_KEY has changed, that would give the session a new key. The browser cannot be told the new key in a
    websocket handshake, so it would be logged out: its next HTTP request is the occasion.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self.get = session.get
        self.flush = session.flush

    def __getitem__(self, key: str) -> Any:
        return self._session[key]

    def __setitem__(self, key: str, value: Any) -> None:
        """Keep the session as it is."""

    def cycle_key(self) -> None:
        """Keep the session as it is."""


def _user_of(session: Any) -> Any:
    request: Any = SimpleNamespace(session=_HandshakeSession(session))
    return get_user(request)


def AuthMiddlewareStack(inner: Any) -> Any:
    """In place of ``channels.auth.AuthMiddlewareStack``: cookies, session and user."""
    return CookieMiddleware(SessionMiddleware(SessionUserMiddleware(inner)))
