"""The client, peer or worker at the other end of a session."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Any


class Role(Enum):
    """The kind of client, by its credentials."""

    CLIENT = "client"
    PEER = "peer"
    """Another server, with the secret of a peer that this server accepts from."""
    WORKER = "worker"
    """This server's worker, which reads the feed. The policy does not apply to it."""
    PUBLISHER = "publisher"
    """This server's own code in another process, which publishes. The policy does not apply to it."""
    READER = "reader"
    """This server's own code in another process, which reads history. The policy does not apply to it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A client as the server knows it. A session replaces it when the client authenticates. Policies get it."""

    client: str
    """The server's id for this connection: 16 hexadecimal digits."""

    user: Any = None
    """The Django user that a middleware looked up; ``None``: no middleware looks up users."""

    role: Role = Role.CLIENT

    peer: str | None = None
    """The peer's name, if ``role`` is ``Role.PEER``."""

    session: str = ""
    """A salted hash of the key of the client's Django session; empty: it came without one."""

    @property
    def is_authenticated(self) -> bool:
        """True if a Django user is logged in on this connection."""
        return bool(getattr(self.user, "is_authenticated", False))

    @property
    def user_id(self) -> Any:
        """The primary key of the Django user who is logged in on this connection; ``None``: nobody is."""
        return getattr(self.user, "pk", None) if self.is_authenticated else None


FindUser = Callable[[Identity], Hashable | None]
"""Returns the key of a client's user; ``None``: there is no user."""


def user_id_of(identity: Identity) -> Hashable | None:
    """Return the user's primary key."""
    user: Hashable | None = identity.user_id
    return user


def hash_session_key(session_key: str) -> str:
    """Return what stands for a Django session in ``Identity.session``: 32 hexadecimal digits, the same in every process.

    The key itself logs its user in, so it must not reach the broker, a log or a page. It is too long to be guessed from
    this.
    """
    return sha256(f"dwsps_channels.session:{session_key}".encode()).hexdigest()[:32]
