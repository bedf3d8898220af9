"""The broker of a server that is one process."""

from collections.abc import Callable

from dwsps_channels.core.publication import Publication


class MemoryBroker:
    """A broker that reaches nobody: no other process is there."""

    async def start(self, deliver: Callable[[Publication], None]) -> None:
        """Do nothing."""

    def publish(self, publication: Publication) -> None:
        """Reach nobody."""

    async def stop(self) -> None:
        """Do nothing."""
