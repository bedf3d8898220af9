"""The client, peer or worker at the other end of a session."""

from dataclasses import dataclass
from enum import Enum
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


@dataclass(frozen=True, slots=True)
class Identity:
    """A client as the server knows it. It does not change during the session. Policies get it."""

    client: str
    """The server's id for this connection: 16 hexadecimal digits."""

    user: Any = None
    """The Django user that a middleware looked up; ``None``: no middleware looks up users."""

    role: Role = Role.CLIENT

    peer: str | None = None
    """The peer's name, if ``role`` is ``Role.PEER``."""

    @property
    def is_authenticated(self) -> bool:
        """True if a Django user is logged in on this connection."""
        return bool(getattr(self.user, "is_authenticated", False))

    @property
    def key_prefix(self) -> str:
        """The beginning of the keys of this client's publishes; those of other users begin with another."""
        if self.role in (Role.WORKER, Role.PUBLISHER):
            return "server:"
        if self.role is Role.PEER:
            return f"peer:{self.peer}:"
        user = self.user_id
        # With its length no user's begins with another's.
        return "anonymous:" if user is None else f"user:{len(str(user))}:{user}:"

    @property
    def user_id(self) -> Any:
        """The primary key of the Django user who is logged in on this connection; ``None``: nobody is."""
        return getattr(self.user, "pk", None) if self.is_authenticated else None
