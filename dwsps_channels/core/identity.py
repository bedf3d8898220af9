"""The client, peer or worker at the other end of a session."""

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Role(Enum):
    """The kind of client, by the credentials that it came with."""

    CLIENT = "client"
    PEER = "peer"
    """Another server, by the secret of a peer that is accepted from."""
    WORKER = "worker"
    """This server's worker, in another process: it reads the feed, and publishes past the policy."""
    PUBLISHER = "publisher"
    """This server's own code in another process: it publishes past the policy."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The server's knowledge of a client, fixed for the session's life. Policies and signals are given it."""

    client: str
    """The server's own id for this connection, never anything the client chose."""

    user: Any = None
    """The Django user that the ASGI application found, or ``None`` if it did not look."""

    role: Role = Role.CLIENT

    peer: str | None = None
    """The peer's name, if ``role`` is ``Role.PEER``."""

    @property
    def is_authenticated(self) -> bool:
        """True if a Django user has logged in on this connection."""
        return bool(getattr(self.user, "is_authenticated", False))

    @property
    def user_id(self) -> Any:
        """The primary key of the Django user who has logged in on this connection; ``None``: nobody has."""
        return getattr(self.user, "pk", None) if self.is_authenticated else None
