"""The contract for those who want to know what sessions do. It must return at once and never raise."""

from typing import Protocol

from msgspec import Raw

from dwsps_channels.core.identity import Identity


class Observer(Protocol):
    """Told after the fact, once for each."""

    def connected(self, identity: Identity) -> None: ...

    def disconnected(self, identity: Identity) -> None: ...

    def subscribed(self, identity: Identity, topic: str) -> None: ...

    def unsubscribed(self, identity: Identity, topic: str) -> None: ...

    def published(self, identity: Identity, topic: str, message: Raw) -> None:
        """``message`` is the published JSON, a view of the whole frame: to keep it, copy it with ``bytes``."""
