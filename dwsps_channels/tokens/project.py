"""The project's authenticator, called so that it neither blocks the event loop nor is overrun."""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from inspect import isawaitable
from math import isfinite
from time import time
from typing import Any, Final

from asgiref.sync import iscoroutinefunction
from django.db import Error as DatabaseError

from dwsps_channels.core.authenticator import Authentication
from dwsps_channels.logs.throttle import LogThrottle
from dwsps_channels.protocol.tokens import is_well_formed
from dwsps_channels.threads.database import Refresher
from dwsps_channels.threads.pools import MAX_WAIT, Busy, look_up

logger = logging.getLogger("dwsps_channels.tokens")

# Calls of an async authenticator at a time. Plain ones have LOOKUP_THREADS.
MAX_CALLS: Final = 16

# Daphne gives up on a handshake after 5 s.
CALL_TIMEOUT: Final = 4.0


class AuthenticatorFailed(Exception):
    """The authenticator gave no answer. The log has the reason."""


class ProjectAuthenticator:
    """Asks the callable that ``DWSPS["AUTHENTICATOR"]`` names.

    A plain callable is called in one of ``LOOKUP_THREADS``; an ``async def`` one is awaited, a few at a time.
    """

    def __init__(self, authenticator: Callable[[str, Any], Any]) -> None:
        self._authenticator = authenticator
        self._is_async = iscoroutinefunction(authenticator) or iscoroutinefunction(
            type(authenticator).__call__
        )
        self._connections = Refresher()
        self._calls = asyncio.Semaphore(MAX_CALLS)
        self._throttle = LogThrottle()

    async def authenticate(self, token: str, scope: Any) -> Authentication | None:
        """Return what ``token`` says who the client is; ``None``: it is not valid. Bad characters are not asked about.

        Raises:
            AuthenticatorFailed: the authenticator raised, took too long, or returned what is no user. It was logged, without the
                token.
            Busy, DatabaseError: it cannot be asked at the moment.
        """
        if not is_well_formed(token):
            return None
        try:
            return _authentication(await self._ask(token, scope))
        except Busy:
            raise
        except Exception as error:
            # What a database says may repeat the token, as "invalid input syntax for type uuid" does.
            if isinstance(error, DatabaseError) and token not in str(error):
                raise
            if self._throttle.is_due(type(error)):
                _log(error, token)
            raise AuthenticatorFailed("the authenticator failed") from None

    async def _ask(self, token: str, scope: Any) -> Any:
        if self._is_async:
            return await self._await(partial(self._authenticator, token, scope))
        answer = await look_up(self._authenticator, token, scope)
        # A plain callable may hand on what an ``async def`` one returns.
        return await self._await(lambda: answer) if isawaitable(answer) else answer

    async def _await(self, call: Callable[[], Awaitable[Any]]) -> Any:
        try:
            await asyncio.wait_for(self._calls.acquire(), MAX_WAIT)
        except TimeoutError:
            raise Busy(f"{MAX_CALLS} tokens were being authenticated for {MAX_WAIT:g} s") from None
        try:
            await self._connections.refresh()
            async with asyncio.timeout(CALL_TIMEOUT):
                return await call()
        except Exception:
            self._connections.suspect()
            raise
        finally:
            self._calls.release()


def _authentication(answer: Any) -> Authentication | None:
    if answer is None:
        return None
    found = answer if isinstance(answer, Authentication) else Authentication(answer)
    if not hasattr(found.user, "is_authenticated"):
        raise TypeError(
            f"an authenticator returns a user, an Authentication or None, not {type(found.user).__name__}"
        )
    if not isinstance(found.expires_at, int | float | None):
        raise TypeError(
            f"Authentication.expires_at is seconds since 1970, not {type(found.expires_at).__name__}"
        )
    if found.expires_at is not None and not isfinite(found.expires_at):
        raise ValueError(
            f"Authentication.expires_at is None if the token does not expire, not {found.expires_at}"
        )
    if found.expires_at is not None and found.expires_at <= time():
        return None
    # As Django's own backends: a deactivated user is nobody, whatever the project's callable forgets.
    is_somebody = found.user.is_authenticated and getattr(found.user, "is_active", True)
    return found if is_somebody else None


def _log(error: Exception, token: str) -> None:
    # A library may repeat the token in its error.
    text = "".join(traceback.format_exception(error)).replace(token, "…")
    logger.error("the authenticator failed\n%s", text.rstrip())
