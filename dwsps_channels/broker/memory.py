"""The broker of a server that is one process."""

from uuid import uuid4

from dwsps_channels.broker.sending.send_queue import refused
from dwsps_channels.core.broker import BrokerStats, Receiver, Repeated
from dwsps_channels.core.futures import Future
from dwsps_channels.core.keys import Keys
from dwsps_channels.core.log import Log
from dwsps_channels.core.publication import Publication


class MemoryBroker:
    """Delivers each publication within ``publish``. The log begins with the process.

    Publications from before ``start`` are delivered by it.
    """

    def __init__(self) -> None:
        self._offset = 0
        self._keys = Keys()
        self._early: list[tuple[Publication, int]] = []
        self._receive = self._keep

    async def start(self, receiver: Receiver) -> None:
        """Deliver from now on: see ``Broker.start``."""
        receiver.begin(Log(epoch=uuid4().hex[:16]))
        self._receive = receiver.receive
        early, self._early = self._early, []
        for publication, offset in early:
            receiver.receive(publication, offset)

    def publish(self, publication: Publication, key: str = "") -> int | Future:
        """Deliver ``publication``: see ``Broker.publish``."""
        if key and (known := self._keys.get(key)) is not None:
            return Repeated(known)
        self._offset = offset = self._offset + 1
        if key:
            self._keys.add(key, offset)
        try:
            self._receive(publication, offset)
        except _Stopped:
            return refused("the server is not running")
        return offset

    def _keep(self, publication: Publication, offset: int | None) -> None:
        assert offset is not None
        self._early.append((publication, offset))

    async def stop(self) -> None:
        """Refuse publications from now on: nobody would take them any more."""
        self._receive = _refuse

    def stats(self) -> BrokerStats:
        """See ``Broker.stats``: nothing waits, and nothing is missed."""
        return BrokerStats()


class _Stopped(Exception):
    """The broker has stopped."""


def _refuse(publication: Publication, offset: int | None) -> None:
    raise _Stopped
