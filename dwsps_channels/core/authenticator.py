"""The contract of authenticators, which tell the user of a connection by a token."""

from collections.abc import Awaitable
from typing import Any, Protocol

from msgspec import Struct


class Authentication(Struct, frozen=True):
    """The user that a token stands for, and the time at which it stops doing so."""

    user: Any
    expires_at: float | None = None
    """In seconds since 1970; ``None``: it does not expire."""


class Authenticator(Protocol):
    """Authenticates for one connection: what it knows of that, it has from the handshake."""

    def __call__(self, token: str) -> Awaitable[Authentication | None]:
        """Return whom ``token`` stands for; ``None``: it is not valid.

        Await what is returned once. It raises a ``WireError`` if the token cannot be checked now. The log tells any
        other exception, and the client gets ``unavailable``.
        """
