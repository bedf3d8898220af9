"""The broker of a server that is one process."""

from dwsps_channels.core.broker import BrokerStats, Deliver
from dwsps_channels.core.publication import Publication


class MemoryBroker:
    """Delivers each publication within ``publish``. The offset is its number in this process.

    Publications from before ``start`` are delivered by it.
    """

    def __init__(self) -> None:
        self._offset = 0
        self._early: list[tuple[Publication, int | None]] = []
        self._deliver: Deliver = lambda *early: self._early.append(early)

    async def start(self, deliver: Deliver) -> None:
        """Deliver from now on: see ``Broker.start``."""
        self._deliver = deliver
        early, self._early = self._early, []
        for publication, offset in early:
            deliver(publication, offset)

    def publish(self, publication: Publication) -> int:
        """Deliver ``publication``: see ``Broker.publish``."""
        self._offset = offset = self._offset + 1
        self._deliver(publication, offset)
        return offset

    async def stop(self) -> None:
        """Do nothing: nothing was opened."""

    def stats(self) -> BrokerStats:
        """See ``Broker.stats``: nothing waits, and nothing is missed."""
        return BrokerStats()
