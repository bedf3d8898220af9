"""The role of a connection, from the credential that it presents (docs/reference/protocol.md, "Peers").

A peer presents its secret: in the ``Authorization`` header, or in the URL if it is a dwsps 1.0.1 server, which cannot
set headers. The worker, and code that publishes from another process, presents a credential signed with ``SECRET_KEY``
(worker_credentials.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any
from urllib.parse import unquote_plus

from django.core.exceptions import ImproperlyConfigured
from django.utils.crypto import constant_time_compare

from dwsps_channels.core.authenticator import Authentication, Authenticator
from dwsps_channels.core.identity import Role
from dwsps_channels.models import Peer, server_id
from dwsps_channels.models.secrets import WORKER_PREFIX


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The role, and the peer, that a connection has from now on."""

    role: Role
    peer: Peer | None = None
    """The peer's row as it is now, if the role is ``Role.PEER``."""
    server_id: str | None = None
    """This server's id for the greeting of a peer; ``None``: no greeting is sent."""
    address: str = ""
    """The address that the connection comes from, for operators."""
    token: Authentication | None = None
    """The token that a client came with; ``None``: it came without one."""
    began: float = inf
    """When the server began to look the token up, in the event loop's time."""
    authenticator: Authenticator | None = None
    """Authenticates the tokens that the client sends later; ``None``: it may send none."""


UNAUTHENTICATED = Authenticated(Role.CLIENT)
"""A connection without a credential: an ordinary client."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A credential that gives no role."""

    reason: str
    """For the log."""
    is_free: bool = False
    """True if the next attempt of its address waits little or not at all: a flood of such ones is to fill no log."""


WRONG_SECRET = Rejected("wrong secret")
"""A credential that is the secret of no peer, accepted from or not: perhaps a guess."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential as the client sent it. Its ``repr`` hides the token."""

    token: str
    in_header: bool
    """``False``: it came in the URL."""

    @property
    def is_workers(self) -> bool:
        """Return whether it claims to be the worker's."""
        return self.token.startswith(WORKER_PREFIX)

    def __repr__(self) -> str:
        return f"Credential(in_header={self.in_header})"


def credential_in(scope: Mapping[str, Any]) -> Credential | None:
    """Extract the credential from the ASGI scope of a websocket connection; ``None`` if it has none."""
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return Credential(value[7:].strip().decode("latin-1"), in_header=True)
    token = _last_token(scope.get("query_string", b""))
    return None if token is None else Credential(token, in_header=False)


def _last_token(query: bytes) -> str | None:
    """Find the value of the last ``token`` in a query. Nothing else is parsed, as a query may have any size."""
    end = len(query)
    while (at := query.rfind(b"token=", 0, end)) > 0 and query[at - 1 : at] != b"&":
        end = at
    if at < 0:
        return None
    value = query[at + len(b"token=") :].partition(b"&")[0]
    return unquote_plus(value.decode("latin-1"))


def authenticate_peer(credential: Credential) -> Authenticated | Rejected:
    """Determine which peer's secret ``credential`` is. Queries the database."""
    # Every secret is compared, each in constant time, so that the duration reveals nothing.
    found = [peer for peer in Peer.objects.order_by("pk") if _matches(peer, credential.token)]
    accepted = [peer for peer in found if peer.enabled and peer.accept]
    if accepted:
        return Authenticated(Role.PEER, accepted[0], server_id() if credential.in_header else None)
    if not found:
        return WRONG_SECRET
    if not found[0].enabled:
        return Rejected(f"peer '{found[0].name}' is disabled")
    return Rejected(f"peer '{found[0].name}' is not accepted from")


def secret_lengths() -> frozenset[int]:
    """Return how long the secrets of peers are: a credential of another length is none. Queries the database."""
    try:
        return frozenset(len(peer.secret) for peer in Peer.objects.all() if peer.secret)
    except ImproperlyConfigured:
        return frozenset()  # a project without a database has no peers either


def _matches(peer: Peer, token: str) -> bool:
    return bool(peer.secret) and constant_time_compare(peer.secret, token)
