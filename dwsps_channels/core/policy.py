"""The contract of policies, which say what each client may do."""

from collections.abc import Awaitable
from typing import Protocol

from dwsps_channels.core.identity import Identity


class Policy(Protocol):
    """Asked before each subscribe and publish. An answer that is there at once is the fast one."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool | Awaitable[bool]:
        """Tell whether ``identity`` may subscribe to ``topic``, and so get its sub-topics too."""

    def may_publish(self, identity: Identity, topic: str) -> bool | Awaitable[bool]:
        """Tell whether ``identity`` may publish to ``topic``."""
