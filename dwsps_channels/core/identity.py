"""Who is at the other end of a session."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Identity:
    """What the server knows of a client, fixed for the session's life. Policies and signals are given it."""

    client: str
    """The server's own id for this connection, never anything the client chose."""

    user: Any = None
    """The Django user that the ASGI application found, or ``None`` where it did not look."""

    @property
    def is_authenticated(self) -> bool:
        """Whether a Django user has logged in on this connection."""
        return bool(getattr(self.user, "is_authenticated", False))

    @property
    def may_relay(self) -> bool:
        """Whether this is a peer, which may send ``fromPeerServer:true``."""
        return False
