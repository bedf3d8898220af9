"""The contract of policies, which decide what each client may do."""

from collections.abc import Awaitable
from typing import Protocol

from dwsps_channels.core.identity import Identity


class Policy(Protocol):
    """Decides before each subscribe and publish. Returning a ``bool`` is faster than returning an awaitable."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool | Awaitable[bool]:
        """Return whether ``identity`` may subscribe to ``topic``, and so receive its sub-topics as well."""

    def may_publish(self, identity: Identity, topic: str) -> bool | Awaitable[bool]:
        """Return whether ``identity`` may publish to ``topic``."""
