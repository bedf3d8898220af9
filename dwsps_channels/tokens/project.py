"""The project's authenticator, called so that it neither blocks the event loop nor is overrun."""

import asyncio
import logging
import traceback
from collections.abc import Callable
from inspect import isawaitable
from math import isfinite
from time import time
from typing import Any, Final

from asgiref.sync import iscoroutinefunction
from django.db import Error as DatabaseError

from dwsps_channels.conf import conf
from dwsps_channels.core.authenticator import Authentication
from dwsps_channels.logs.throttle import LogThrottle
from dwsps_channels.protocol.tokens import is_well_formed
from dwsps_channels.threads.database import Refresher
from dwsps_channels.threads.pools import check_token
from dwsps_channels.threads.time_limit import NoAnswer, in_time
from dwsps_channels.tokens.places import Places

logger = logging.getLogger("dwsps_channels.tokens")

# Calls of an async authenticator at a time. Plain ones have as many threads as LOOKUP_THREADS says.
MAX_CALLS: Final = 16

# Daphne gives up on a handshake after 5 s.
CALL_TIMEOUT: Final = 4.0


class AuthenticatorFailed(Exception):
    """The authenticator gave no answer. The log has the reason."""


class ProjectAuthenticator:
    """Asks the callable that ``DWSPS["AUTHENTICATOR"]`` names.

    A plain callable is called in a thread; an ``async def`` one is awaited. A few calls at a time, each for
    ``CALL_TIMEOUT`` seconds.
    """

    def __init__(self, authenticator: Callable[[str, Any], Any]) -> None:
        self._authenticator = authenticator
        self._is_async = iscoroutinefunction(authenticator) or iscoroutinefunction(
            type(authenticator).__call__
        )
        self._connections = Refresher()
        self._places = Places(MAX_CALLS if self._is_async else conf.LOOKUP_THREADS)
        # The calls in threads that nobody waits for any more.
        self._left: set[asyncio.Future[Any]] = set()
        self._throttle = LogThrottle()

    async def authenticate(self, token: str, scope: Any, address: str) -> Authentication | None:
        """Return what ``token`` says who the client is; ``None``: it is not valid. Bad characters are not asked about.

        Args:
            token: what the client has sent.
            scope: the ASGI scope of its connection.
            address: what counts as one address: it has a share of the calls.

        Raises:
            AuthenticatorFailed: the authenticator raised, took too long, or returned what is no user. It was logged, without the
                token.
            TooManyTokens: the address has its share, and too many of its calls wait.
            Busy, DatabaseError: it cannot be asked at the moment.
        """
        if not is_well_formed(token):
            return None
        leave = await self._places.enter(address)
        try:
            return _authentication(await in_time(self._ask(token, scope, leave), CALL_TIMEOUT))
        except Exception as error:
            self._connections.suspect()
            # What a database says may repeat the token, as "invalid input syntax for type uuid" does.
            if isinstance(error, DatabaseError) and token not in str(error):
                raise
            if self._throttle.is_due(type(error)):
                self._log(error, token)
            raise AuthenticatorFailed("the authenticator failed") from None

    async def _ask(self, token: str, scope: Any, leave: Callable[[], None]) -> Any:
        """Call the authenticator; call ``leave`` once the call is over."""
        call: asyncio.Future[Any] | None = None
        try:
            if self._is_async:
                await self._connections.refresh()
                return await self._authenticator(token, scope)
            call = asyncio.ensure_future(check_token(self._authenticator, token, scope))
            await asyncio.wait((call,))
            answer = call.result()
            if isawaitable(answer):
                # A plain callable may hand on what an ``async def`` one returns.
                await self._connections.refresh()
                answer = await answer
            return answer
        finally:
            if call is None or call.done():
                leave()
            else:
                self._leave_later(call, leave)

    def _leave_later(self, call: asyncio.Future[Any], leave: Callable[[], None]) -> None:
        """Keep the place of a call that nobody waits for any more: its thread cannot be ended."""
        self._left.add(call)

        def end(call: asyncio.Future[Any]) -> None:
            self._left.discard(call)
            leave()
            if not call.cancelled():
                call.exception()  # retrieved, so that asyncio does not report it

        call.add_done_callback(end)

    def _log(self, error: Exception, token: str) -> None:
        if isinstance(error, NoAnswer):
            problem = f": {error}"
            if self._left:
                problem += f"; threads that such calls still keep: {len(self._left)} of {conf.LOOKUP_THREADS}"
        else:
            # A library may repeat the token in its error.
            problem = "\n" + "".join(traceback.format_exception(error)).replace(token, "…")
        logger.error("the authenticator failed%s", problem.rstrip())


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
