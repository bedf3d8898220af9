"""The subscribers of one topic, and the way of one frame to all of them."""

from collections.abc import Collection, KeysView

from dwsps_channels.core.transport import Courier, Transport
from dwsps_channels.protocol.frames import Frame

# Fewer than these are each sent to: a courier has to be worth its way.
CROWD = 8


class Subscriber:
    """One receiver of deliveries, and what it is subscribed to."""

    __slots__ = ("size", "topics", "transport")

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        """Takes the deliveries."""
        self.topics: set[str] = set()
        """Its subscriptions. Changed by the hub alone."""
        self.size = 0
        """The bytes of these topics. Changed by the hub alone."""


class Audience:
    """Keeps who subscribes to a topic, in order, and has couriers deliver where there are many."""

    __slots__ = ("_parties", "_transports")

    def __init__(self) -> None:
        self._transports: dict[Subscriber, Transport] = {}
        # For each courier those that it delivers to; None for those that have none. Made when it is needed, and
        # dropped, never changed, when somebody comes or goes: a courier may hold on to what it was given.
        self._parties: list[tuple[Courier | None, Collection[Transport]]] | None = None

    def add(self, subscriber: Subscriber) -> None:
        self._transports[subscriber] = subscriber.transport
        self._parties = None

    def remove(self, subscriber: Subscriber) -> None:
        del self._transports[subscriber]
        self._parties = None

    def __len__(self) -> int:
        return len(self._transports)

    def members(self) -> KeysView[Subscriber]:
        """Who is in it."""
        return self._transports.keys()

    def deliver(self, frame: Frame) -> None:
        """Send ``frame`` to everyone."""
        transports = self._transports
        if len(transports) < CROWD:
            for transport in transports.values():
                transport.send(frame)
            return
        if self._parties is None:
            self._parties = self._divide()
        for courier, party in self._parties:
            if courier is not None:
                courier.deliver(frame, party)
            else:
                for transport in party:
                    transport.send(frame)

    def _divide(self) -> list[tuple[Courier | None, Collection[Transport]]]:
        # By identity: a dict is in order, and quick to be asked.
        parties: dict[Courier | None, dict[Transport, None]] = {}
        for transport in self._transports.values():
            parties.setdefault(transport.courier, {})[transport] = None
        return list(parties.items())
