"""The user of a connection, as ``channels.auth`` finds it, for less where there is none to be found."""

from typing import Any

from channels.auth import AuthMiddleware
from channels.sessions import CookieMiddleware, SessionMiddleware
from django.contrib.auth.models import AnonymousUser


class SessionUserMiddleware(AuthMiddleware):
    """Does as ``AuthMiddleware``, but goes to a thread and the database only for who presents a session cookie.

    Whoever has none is anonymous all the same, and a server that was restarted has thousands of them at once.
    """

    async def resolve_scope(self, scope: Any) -> None:
        if scope["session"].session_key is None:
            scope["user"]._wrapped = AnonymousUser()
        else:
            await super().resolve_scope(scope)


def AuthMiddlewareStack(inner: Any) -> Any:
    """In place of ``channels.auth.AuthMiddlewareStack``: cookies, session and user."""
    return CookieMiddleware(SessionMiddleware(SessionUserMiddleware(inner)))
