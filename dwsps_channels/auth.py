"""The user of a connection, by Django's session cookie. A connection without the cookie costs no query."""

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
    """Works like ``AuthMiddleware``, but looks up only clients with a session cookie, and in separate threads.

    After a restart thousands of clients connect at once. Those without a cookie need no look-up. A look-up that has not
    begun is dropped if its client disconnects. If too many wait, or the database is down, the handshake is answered
    with 503, and the client reconnects later.
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

    If SECRET_KEY has changed, ``get_user`` would give the session a new key. A websocket handshake cannot pass the new
    key to the browser, which would be logged out. So the key stays until the browser's next HTTP request.
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
    """Wrap ``inner`` in the middleware for cookies, session and user, as ``channels.auth.AuthMiddlewareStack`` does."""
    return CookieMiddleware(SessionMiddleware(SessionUserMiddleware(inner)))
