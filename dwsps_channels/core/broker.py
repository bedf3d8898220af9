"""The contract of a broker. Every implementation passes ``tests/broker/contract.py``."""

from collections.abc import Callable
from typing import Protocol

from dwsps_channels.core.futures import Future
from dwsps_channels.core.publication import Publication


class Broker(Protocol):
    """Carries publications between the processes of one server.

    Each process gets what the others publish once, in the order of each publisher, and never what it published
    itself. What cannot be carried is refused (``Unavailable``) or counted and logged, never dropped in silence.
    """

    async def start(self, deliver: Callable[[Publication], None]) -> None:
        """Begin to receive: call ``deliver``, on this event loop, for each publication of another process.

        Return once this process receives, or once it is known that it cannot for now: then go on trying.
        """

    def publish(self, publication: Publication) -> Future | None:
        """Hand a publication to every other process.

        ``None``: there is nobody else. Else a future that is done once the broker has accepted it; it raises
        ``Unavailable`` if the broker did not. Handed over in the order of the calls, awaited or not.
        """

    async def stop(self) -> None:
        """Send what was accepted, stop receiving, and leave nothing behind. A second call changes nothing."""
