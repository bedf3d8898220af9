"""The credential of this server's own code in another process: the worker, and whoever publishes from outside.

It is signed with ``SECRET_KEY``, and with no fallback of it: an old key that leaked opens nothing. It names the server, so
that another one with the same key does not take it, and what it is for. It is good for a minute, and once: each process
remembers those that it has seen.
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
"""It is signed for each connection; the time is for clocks that differ, either way."""


class Purpose(StrEnum):
    """What a credential is for."""

    FORWARD = "forward"
    """The worker: to be sent all that is published."""
    PUBLISH = "publish"
    """``publish()`` in a process that serves nothing."""


_ROLES = {Purpose.FORWARD: Role.WORKER, Purpose.PUBLISH: Role.PUBLISHER}


class Rejected(Exception):
    """A credential that gives nothing; its text says why, for the log."""


def own_server_id() -> str:
    """This server's id; empty in a project without a database, which has no peers either."""
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
    """Examines the credentials that come to one process."""

    def __init__(self, own_id: Callable[[], Awaitable[str]] = _look_up_own_id) -> None:
        self._look_up_own_id = own_id
        self._own_id: str | None = None
        # The nonces that were used, each with the time until which its credential would be good, the oldest first.
        self._used: OrderedDict[str, float] = OrderedDict()

    async def examine(self, token: str, *, in_header: bool) -> Role:
        """Give the role that ``token`` stands for. Asks the database once, for the server's id.

        Raises:
            Rejected: it stands for none.
            Busy, DatabaseError: as ``look_up`` does.
        """
        if not in_header:
            # URLs get into logs.
            raise Rejected("a worker's credential in a URL: it comes in a header only")
        stated = _unsigned(token)
        if self._own_id is None:
            self._own_id = await self._look_up_own_id()
        if stated["server"] != self._own_id:
            raise Rejected("a worker's credential for another server with the same SECRET_KEY")
        now = time()
        if abs(now - stated["at"]) > LIFETIME:
            raise Rejected(
                f"a worker's credential that is not of this minute: do the clocks agree to within {LIFETIME} s?"
            )
        self._forget(now)
        nonce = stated["nonce"]
        if nonce in self._used:
            raise Rejected("a worker's credential that was used before")
        self._used[nonce] = stated["at"] + LIFETIME
        return _ROLES[Purpose(stated["purpose"])]

    def _forget(self, now: float) -> None:
        # Nearly in order, as clocks differ: what stays is forgotten when its predecessors are.
        while self._used and next(iter(self._used.values())) < now:
            self._used.popitem(last=False)


def _unsigned(token: str) -> dict[str, Any]:
    try:
        # Only what this module has signed gets beyond this line.
        stated: dict[str, Any] = _signer().unsign_object(token.removeprefix(WORKER_PREFIX))
        return stated
    except (BadSignature, ValueError):
        raise Rejected(
            "a worker's credential that was signed with another SECRET_KEY; a fallback is not enough"
        ) from None


def _signer() -> Signer:
    return Signer(key=settings.SECRET_KEY, fallback_keys=[], salt="dwsps_channels.worker.v2")
