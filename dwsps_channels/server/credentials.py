"""The credentials that connections present to one process: tokens of clients, secrets of peers, those of this server's code."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any, Final

from django.db import Error as DatabaseError

from dwsps_channels.connections.addresses import network_of
from dwsps_channels.connections.handshakes import unanswered
from dwsps_channels.connections.throttle import (
    FREE,
    MAX_WAITING,
    KnownFailure,
    Throttle,
    TooManyFailures,
    delay_after,
)
from dwsps_channels.core.authenticator import Authentication
from dwsps_channels.core.identity import Role
from dwsps_channels.logs.throttle import LogThrottle
from dwsps_channels.peering.inbound.authentication import (
    WRONG_SECRET,
    Authenticated,
    Credential,
    Rejected,
    authenticate_peer,
    secret_lengths,
)
from dwsps_channels.peering.inbound.worker_credentials import InvalidCredential, WorkerCredentials
from dwsps_channels.protocol import tokens
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.threads.pools import Busy, look_up
from dwsps_channels.tokens.places import TooManyTokens
from dwsps_channels.tokens.project import AuthenticatorFailed, ProjectAuthenticator

# Behind one address there may be a peer or two, but any number of clients with tokens.
FREE_TOKENS: Final = 20
PARALLEL_TOKENS: Final = 8
MAX_WAITING_TOKENS: Final = 1000

# Seconds for which the lengths of secrets count: as long as rows of peers take elsewhere to be in force.
LENGTHS_MAX_AGE: Final = 1.0


class Credentials:
    """Checks the credentials of connections.

    A false token delays no peer, and a false secret no client: what has the form of a signed token is never compared to
    secrets, and neither is what has the length of none. What is left counts as an attempt at a secret. A false signed
    token delays no other one: nobody can guess one. But an address has only a share of the authenticator's calls.
    """

    def __init__(self, authenticator: Callable[[str, Any], Any] | None) -> None:
        """Accept tokens that ``authenticator`` knows the user of; ``None``: accept none."""
        self._project = None if authenticator is None else ProjectAuthenticator(authenticator)
        self._workers = WorkerCredentials()
        # Tokens that are as long as a secret wait there as well.
        self._secret_throttle = Throttle(
            max_waiting=MAX_WAITING if authenticator is None else MAX_WAITING_TOKENS
        )
        self._token_throttle = Throttle(
            free=FREE_TOKENS, parallel=PARALLEL_TOKENS, max_waiting=MAX_WAITING_TOKENS
        )
        self._refusals = LogThrottle()
        # ``None``: not read yet.
        self._lengths: frozenset[int] | None = None
        self._lengths_read = float("-inf")

    @property
    def accepts_tokens(self) -> bool:
        """True if the project has an authenticator."""
        return self._project is not None

    async def authenticate(
        self, credential: Credential, scope: Mapping[str, Any], address: str, *, has_user: bool
    ) -> Authenticated | Rejected:
        """Determine the role, or the user, that ``credential`` gives to the connection of ``scope``.

        Args:
            credential: what the client presents.
            scope: the ASGI scope of the connection.
            address: where it comes from, for the throttle.
            has_user: a user is logged in already. Then the credential can only be a token.

        Raises:
            AuthenticatorFailed: the authenticator gave no answer.
            Busy, DatabaseError: it cannot be checked at the moment.
            TooManyFailures, TooManyTokens: it was not checked, because of others from its address.
        """
        try:
            return await self._authenticate(credential, scope, address, has_user=has_user)
        except KnownFailure as error:
            return Rejected(f"a credential that is not checked again: {error}", is_free=True)

    async def _authenticate(
        self, credential: Credential, scope: Mapping[str, Any], address: str, *, has_user: bool
    ) -> Authenticated | Rejected:
        token = credential.token
        if has_user:
            return await self._as_token(token, scope, address)
        if credential.is_workers:
            return await self._as_workers(credential)
        if self._project is None:
            if token.startswith(tokens.PREFIX):
                return Rejected("a token, but DWSPS['AUTHENTICATOR'] is not set", is_free=True)
            return await self._as_secret(credential, address)
        if tokens.is_signed(token) or not await self._has_length_of_secret(token):
            return await self._as_token(token, scope, address)
        return await self._as_either(credential, scope, address)

    async def authenticate_token(
        self, token: str, scope: Mapping[str, Any], address: str
    ) -> Authentication | None:
        """Return the user that ``token`` stands for; ``None``: it is not valid. Raises as ``authenticate`` does."""
        if tokens.is_signed(token):
            return await self._ask(token, scope, address)
        try:
            async with self._token_throttle.turn(address, token) as failed:
                accepted = await self._ask(token, scope, address)
                if accepted is None:
                    failed()
                return accepted
        except KnownFailure:
            return None

    def is_log_due(self, address: str, rejected: Rejected) -> bool:
        """Return whether to log a refusal: of those that cost little, one a minute for each address and reason."""
        return not rejected.is_free or self._refusals.is_due((network_of(address), rejected.reason))

    async def _as_workers(self, credential: Credential) -> Authenticated | Rejected:
        try:
            role = await self._workers.authenticate(
                credential.token, in_header=credential.in_header
            )
        except InvalidCredential as error:
            return Rejected(str(error), is_free=True)
        return Authenticated(role)

    async def _as_secret(self, credential: Credential, address: str) -> Authenticated | Rejected:
        async with self._secret_throttle.turn(address, credential.token) as failed:
            answer = await look_up(authenticate_peer, credential)
            if answer is WRONG_SECRET:
                failed()
            return answer

    async def _as_token(
        self, token: str, scope: Mapping[str, Any], address: str
    ) -> Authenticated | Rejected:
        accepted = await self.authenticate_token(token, scope, address)
        if accepted is None:
            return Rejected("not a valid token", is_free=True)
        return _client(accepted)

    async def _as_either(
        self, credential: Credential, scope: Mapping[str, Any], address: str
    ) -> Authenticated | Rejected:
        async with self._secret_throttle.turn(address, credential.token) as failed:
            # A peer first: its secret is not for the project's authenticator, which may even be out of order.
            peer = await look_up(authenticate_peer, credential)
            if isinstance(peer, Authenticated):
                return peer
            accepted = await self._ask(credential.token, scope, address)
            if accepted is not None:
                return _client(accepted)
            if peer is WRONG_SECRET:
                failed()
            return Rejected(f"neither a valid token nor the secret of a peer: {peer.reason}")

    async def _ask(
        self, token: str, scope: Mapping[str, Any], address: str
    ) -> Authentication | None:
        assert self._project is not None
        return await self._project.authenticate(token, scope, network_of(address))

    async def _has_length_of_secret(self, token: str) -> bool:
        if monotonic() - self._lengths_read >= LENGTHS_MAX_AGE:
            try:
                self._lengths = await look_up(secret_lengths)
            except DatabaseError:
                # Tokens that need no database still count. But no secret may be taken for a token.
                if self._lengths is None:
                    raise
            self._lengths_read = monotonic()
        return len(token) in (self._lengths or ())


def _client(accepted: Authentication) -> Authenticated:
    return Authenticated(Role.CLIENT, token=accepted)


class ConnectionAuthenticator:
    """Authenticates the tokens that one connection sends: the ``Authenticator`` of its session.

    A connection that goes on sending false ones waits for each answer, and so does nobody else.
    """

    __slots__ = ("_address", "_credentials", "_failures", "_scope", "_sleep", "_was_disconnected")

    def __init__(
        self,
        credentials: Credentials,
        scope: Mapping[str, Any],
        address: str,
        was_disconnected: Callable[[object, float], bool] = lambda user, since: False,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._was_disconnected = was_disconnected
        self._credentials = credentials
        # Without what leads back to the connection, which would then not be freed with its last frame.
        self._scope = {key: value for key, value in scope.items() if key != "extensions"}
        self._address = address
        self._sleep = sleep
        # False tokens since the last right one.
        self._failures = 0

    async def __call__(self, token: str) -> Authentication | None:
        """Return the user that ``token`` stands for; ``None``: it is not valid.

        Raises:
            Unavailable: it cannot be checked.
        """
        if (pause := delay_after(self._failures, FREE)) > 0:
            await self._sleep(pause)
        try:
            found = await self._authenticate(token)
        except AuthenticatorFailed:
            problem = "the token could not be checked, the server's log says why"
        except (TooManyFailures, TooManyTokens) as error:
            problem = str(error)
        except (Busy, DatabaseError) as error:
            unanswered.note(error)
            problem = "tokens cannot be checked at the moment"
        else:
            self._failures = self._failures + 1 if found is None else 0
            return found
        raise Unavailable(problem)

    async def _authenticate(self, token: str) -> Authentication | None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            found = await self._credentials.authenticate_token(token, self._scope, self._address)
            if found is None or not self._was_disconnected(found.user, began):
                return found
