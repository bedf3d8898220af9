"""The user of a connection, by Django's session cookie. A connection without the cookie costs no query."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from channels.auth import AuthMiddleware
from channels.sessions import CookieMiddleware, SessionMiddleware
from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.auth.models import AnonymousUser
from django.db import Error as DatabaseError
from django.http import parse_cookie
from django.utils.functional import SimpleLazyObject

from dwsps_channels.connections.django_session import open_store
from dwsps_channels.connections.handshakes import (
    ClientGone,
    ReplayedReceive,
    unanswered,
    while_connected,
)
from dwsps_channels.threads.pools import Busy, look_up


class AuthMiddlewareStack(AuthMiddleware):
    """Middleware for cookies, session and user, with the same ``scope`` as ``channels.auth.AuthMiddlewareStack``.

    It looks up only clients with a session cookie, and in separate threads. After a restart thousands of clients connect
    at once. For those without a cookie no session is made until somebody looks at it. A look-up that has not begun is
    dropped if its client disconnects. If too many wait, or the database is down, the handshake is answered with 503, and
    the client reconnects later.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self._of_http = CookieMiddleware(SessionMiddleware(_HttpUserMiddleware(inner)))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        if scope["type"] != "websocket":
            return await self._of_http(scope, receive, send)
        # In one step: a handshake's response carries no cookie, so no session has to be saved.
        scope = dict(scope)
        cookies = scope["cookies"] = _cookies_in(scope["headers"])
        if "session" in scope:
            key = scope["session"].session_key
        elif (key := cookies.get(settings.SESSION_COOKIE_NAME)) is None:
            scope["session"] = SimpleLazyObject(open_store)
        else:
            scope["session"] = open_store(key)
            key = scope["session"].session_key
        if key is None:
            user = AnonymousUser()
        else:
            connect = await receive()
            try:
                # This loads the session as well, which an async consumer could not do by looking at it.
                user = await while_connected(receive, look_up(_user_of, scope["session"]))
            except ClientGone:
                return None
            except (Busy, DatabaseError) as error:
                return await unanswered.reject(scope, send, error)
            receive = ReplayedReceive(connect, receive)
        scope.setdefault("user", user)  # a middleware around this one may know another
        inner: Any = self.inner
        return await inner(scope, receive, send)


class _HttpUserMiddleware(AuthMiddleware):
    """The part of ``AuthMiddleware`` that looks up the user, in separate threads."""

    async def resolve_scope(self, scope: Any) -> None:
        session = scope["session"]
        scope["user"]._wrapped = (
            AnonymousUser() if session.session_key is None else await look_up(_user_of, session)
        )


def _cookies_in(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    for name, value in headers:
        if name == b"cookie":
            return parse_cookie(value.decode("latin-1"))
    return {}


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
