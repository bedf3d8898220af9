"""Authentication on a connection that stands: a client sends a token, renews it, and is closed when it expires."""

from collections.abc import Awaitable
from dataclasses import replace
from functools import partial
from typing import Final

from msgspec import UNSET, UnsetType

from dwsps_channels.core.authenticator import Authentication, Authenticator
from dwsps_channels.core.identity import Identity
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.rechecking import RecheckingEndpoint
from dwsps_channels.core.scheduler import Timer
from dwsps_channels.core.services import Services
from dwsps_channels.core.transport import Transport
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Unauthorized, Unavailable
from dwsps_channels.protocol.messages import Ack, Authenticate, Expiring, encode
from dwsps_channels.protocol.timestamps import now

# The seconds before a token's expiry at which the client is warned.
EXPIRY_NOTICE: Final = 60.0

# A timer takes no more of them. A token that lasts longer is looked at again then.
MAX_TIMER: Final = 86_400.0


class AuthenticatingEndpoint(RecheckingEndpoint):
    """The part of a session that takes tokens."""

    __slots__ = ("_authenticator", "_expiry")

    def __init__(
        self,
        services: Services,
        transport: Transport,
        identity: Identity,
        limits: Limits,
        authenticator: Authenticator | None = None,
    ) -> None:
        super().__init__(services, transport, identity, limits)
        self._authenticator = authenticator
        # Of the token that the client came with, or has sent.
        self._expiry: Timer | None = None

    def _authenticate(self, request: Authenticate) -> Awaitable[None] | None:
        """Ask whom a token stands for, let it take effect, and reply."""
        if self._authenticator is None:
            raise Unauthorized("this server takes no tokens")
        ask = partial(self._authenticator, request.token)
        found = self._latest(ask(), ask, self._generation)
        return self._continue(request, found, partial(self._authenticated, request))

    def _authenticated(
        self, request: Authenticate, found: Authentication | None
    ) -> Awaitable[None] | None:
        if self._closing:
            raise Unavailable("the connection is closing")
        if found is None:
            raise Unauthorized("the token is not valid")
        identity = replace(self.identity, user=found.user)
        if not identity.is_authenticated:
            raise Unauthorized("the token stands for no user")
        self._check_same_user(identity)
        expires_in: int | UnsetType = UNSET
        if found.expires_at is not None:
            left = found.expires_at - self._services.scheduler.time()
            if left <= 0:
                raise Unauthorized("the token has expired")
            expires_in = int(left)
        self.expire_at(found.expires_at)
        self._identify(identity, self._generation)
        ack = Ack(action="authenticate", timestamp=now(), id=request.id, expires_in=expires_in)
        pending = self._reply(encode(ack))
        rechecked = self.recheck(None)
        if pending is None or rechecked is None:
            return pending or rechecked
        return self._await_both(rechecked, pending)

    async def _await_both(self, first: Awaitable[None], second: Awaitable[None]) -> None:
        await first
        await second

    def _check_same_user(self, identity: Identity) -> None:
        """Raise ``Unauthorized`` if the connection has a user, and ``identity`` is not known to have the same."""
        find_user = self._services.find_user
        try:
            # This first: it raises if nobody has loaded the user, and to look at that would be a query on the event loop.
            user = find_user(self.identity)
            is_same = (
                user == find_user(identity)
                if user is not None
                else not self.identity.is_authenticated
            )
        except Exception:
            # A user of the project may be unable to tell its key here.
            raise Unauthorized("the server cannot tell yet whose connection this is") from None
        if not is_same:
            raise Unauthorized("the token is another user's")

    def expire_at(self, expires_at: float | None) -> None:
        """Close the connection at this time, in seconds since 1970, and warn the client before; ``None``: do not."""
        self._stop_expiry()
        if expires_at is not None and not self._closing:
            self._await_expiry(expires_at)

    def _await_expiry(self, expires_at: float) -> None:
        left = expires_at - self._services.scheduler.time()
        if left > MAX_TIMER:
            self._expiry = self._services.scheduler.call_later(
                MAX_TIMER, partial(self._await_expiry, expires_at)
            )
        else:
            self._expiry = self._services.scheduler.call_later(
                max(0.0, left - EXPIRY_NOTICE), partial(self._warn_of_expiry, expires_at)
            )

    def _warn_of_expiry(self, expires_at: float) -> None:
        left = max(0.0, expires_at - self._services.scheduler.time())
        # Behind the replies that wait: one of them may be the ack of this token.
        self._answer(encode(Expiring(now(), int(left))))
        self._expiry = self._services.scheduler.call_later(left, self._expire)

    def _expire(self) -> None:
        self.close(CloseCode.UNAUTHORIZED, Unauthorized("the token has expired"))

    def _stop_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _leave(self) -> None:
        super()._leave()
        self._stop_expiry()
