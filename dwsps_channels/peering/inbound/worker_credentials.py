"""The credential of this server's own code in another process: the worker, ``publish()`` and ``history()`` from outside.

It is signed with ``SECRET_KEY`` and never with a fallback, so a leaked old key opens nothing. It names the server, because
another server may share the key, and its purpose. It is valid for a minute and accepted once per process, which remembers
the nonces that it has seen.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from enum import StrEnum
from secrets import token_urlsafe
from time import time
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signing import BadSignature, Signer

from dwsps_channels.core.identity import Role
from dwsps_channels.models import server_id
from dwsps_channels.models.secrets import WORKER_PREFIX
from dwsps_channels.threads.pools import look_up

LIFETIME = 60
"""A credential is signed for each connection. The time allows for clocks that differ, either way."""


class Purpose(StrEnum):
    """The purpose that a credential is limited to."""

    FORWARD = "forward"
    """The worker: it may request the feed."""
    PUBLISH = "publish"
    """``publish()`` in a process that serves nothing."""
    READ = "read"
    """``history()`` in a process that serves nothing."""


_ROLES = {
    Purpose.FORWARD: Role.WORKER,
    Purpose.PUBLISH: Role.PUBLISHER,
    Purpose.READ: Role.READER,
}


class InvalidCredential(Exception):
    """A worker's credential that gives no role. The text is the reason, for the log."""


def own_server_id() -> str:
    """Return this server's id; an empty string in a project without a database, which has no peers either."""
    try:
        return server_id()
    except ImproperlyConfigured:
        return ""


def sign_worker(server: str, purpose: Purpose) -> str:
    """Sign a credential for one connection to the server of this id."""
    stated = {
        "server": server,
        "purpose": purpose.value,
        "nonce": token_urlsafe(16),
        "at": int(time()),
    }
    return WORKER_PREFIX + _signer().sign_object(stated)


async def _look_up_own_id() -> str:
    return await look_up(own_server_id)


class WorkerCredentials:
    """Authenticates the workers that connect to one process."""

    def __init__(self, own_id: Callable[[], Awaitable[str]] = _look_up_own_id) -> None:
        self._look_up_own_id = own_id
        self._own_id: str | None = None
        # Nonce to the time at which its credential expires, oldest first.
        self._used: OrderedDict[str, float] = OrderedDict()

    async def authenticate(self, token: str, *, in_header: bool) -> Role:
        """Return the role that ``token`` gives. Queries the database once, for the server's id.

        Raises:
            InvalidCredential: it gives none.
            Busy, DatabaseError: as ``look_up`` does.
        """
        if not in_header:
            # URLs get into logs.
            raise InvalidCredential("a worker's credential in a URL: it comes in a header only")
        stated = _unsigned(token)
        if self._own_id is None:
            self._own_id = await self._look_up_own_id()
        if stated["server"] != self._own_id:
            raise InvalidCredential(
                "a worker's credential for another server with the same SECRET_KEY"
            )
        now = time()
        if abs(now - stated["at"]) > LIFETIME:
            raise InvalidCredential(
                f"a worker's credential that was not signed within the last minute: do the clocks agree to within {LIFETIME} s?"
            )
        self._forget(now)
        nonce = stated["nonce"]
        if nonce in self._used:
            raise InvalidCredential("a worker's credential that was used before")
        self._used[nonce] = stated["at"] + LIFETIME
        return _ROLES[Purpose(stated["purpose"])]

    def _forget(self, now: float) -> None:
        # The order is approximate, as clocks differ: a late one is forgotten after its predecessors.
        while self._used and next(iter(self._used.values())) < now:
            self._used.popitem(last=False)


def _unsigned(token: str) -> dict[str, Any]:
    try:
        # Past this line it is known to be signed by this module.
        stated: dict[str, Any] = _signer().unsign_object(token.removeprefix(WORKER_PREFIX))
        return stated
    except (BadSignature, ValueError):
        raise InvalidCredential(
            "a worker's credential that was signed with another SECRET_KEY; a fallback is not enough"
        ) from None


def _signer() -> Signer:
    return Signer(key=settings.SECRET_KEY, fallback_keys=[], salt="dwsps_channels.worker.v2")
