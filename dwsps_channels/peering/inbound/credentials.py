"""Who a connection is, by the credentials that it brings (docs/reference/protocol.md, "Peers").

A peer brings its secret, in the ``Authorization`` header or, as a dwsps 1.0.1 server can do no other, in the URL.
The worker, and code that publishes from elsewhere, brings a credential signed with ``SECRET_KEY``
(worker_credentials.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from django.utils.crypto import constant_time_compare

from dwsps_channels.core.identity import Role
from dwsps_channels.models import Peer, server_id
from dwsps_channels.models.secrets import WORKER_PREFIX
from dwsps_channels.peering.inbound.worker_credentials import Rejected, WorkerCredentials
from dwsps_channels.threads.pools import look_up


@dataclass(frozen=True, slots=True)
class Granted:
    """What a credential gives."""

    role: Role
    peer: Peer | None = None
    server_id: str | None = None
    """The id that the greeting of a peer has; ``None``: no greeting is sent."""


ORDINARY = Granted(Role.CLIENT)
"""What every client has."""


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a credential gives nothing, for the log."""

    reason: str


@dataclass(frozen=True, slots=True)
class Presented:
    """A credential as it came. Its ``repr`` does not show it."""

    token: str
    in_header: bool

    @property
    def is_workers(self) -> bool:
        """Whether it is meant to be the worker's."""
        return self.token.startswith(WORKER_PREFIX)

    def __repr__(self) -> str:
        return f"Presented(in_header={self.in_header})"


def presented(scope: Mapping[str, Any]) -> Presented | None:
    """The credential that an ASGI scope of a websocket connection brings; ``None``: it brings none."""
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return Presented(value[7:].strip().decode("latin-1"), in_header=True)
    token = _last_token(scope.get("query_string", b""))
    return None if token is None else Presented(token, in_header=False)


def _last_token(query: bytes) -> str | None:
    """The value of the last ``token`` in a query, of which nothing else is looked at: it may be of any size."""
    end = len(query)
    while (at := query.rfind(b"token=", 0, end)) > 0 and query[at - 1 : at] != b"&":
        end = at
    if at < 0:
        return None
    value = query[at + len(b"token=") :].partition(b"&")[0]
    return unquote_plus(value.decode("latin-1"))


async def examine(credential: Presented, workers: WorkerCredentials) -> Granted | Denied:
    """What ``credential`` gives. Asks the database, once alone for the worker's. Raises as ``look_up`` does."""
    if not credential.is_workers:
        return await look_up(_examine_peer, credential)
    try:
        return Granted(await workers.examine(credential.token, in_header=credential.in_header))
    except Rejected as rejected:
        return Denied(str(rejected))


def _examine_peer(credential: Presented) -> Granted | Denied:
    # Every secret is compared, and each in constant time: how long it takes tells nothing.
    found = [peer for peer in Peer.objects.order_by("pk") if _matches(peer, credential.token)]
    accepted = [peer for peer in found if peer.enabled and peer.accept]
    if accepted:
        return Granted(Role.PEER, accepted[0], server_id() if credential.in_header else None)
    if not found:
        return Denied("wrong secret")
    if not found[0].enabled:
        return Denied(f"peer '{found[0].name}' is disabled")
    return Denied(f"peer '{found[0].name}' is not accepted from")


def _matches(peer: Peer, token: str) -> bool:
    return bool(peer.secret) and constant_time_compare(peer.secret, token)
