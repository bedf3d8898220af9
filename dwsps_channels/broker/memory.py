"""The bus of a server that is one process."""

from collections.abc import Callable

from dwsps_channels.core.publication import Publication


class LocalBus:
    """Nobody else is there."""

    async def start(self, deliver: Callable[[Publication], None]) -> None:
        """Do nothing."""

    def publish(self, publication: Publication) -> None:
        """Reach nobody."""

    async def stop(self) -> None:
        """Do nothing."""
