"""The subscriptions to one topic, and the delivery of a frame to all of them."""

from collections.abc import Collection, KeysView, ValuesView

from dwsps_channels.core.subscription import Subscription
from dwsps_channels.core.transport import Broadcaster, Transport
from dwsps_channels.protocol.frames import Frame

# Below this number of subscribers a ``send`` to each is cheaper than a broadcast.
MIN_BROADCAST = 8


class Audience:
    """The subscriptions to a topic, in the order in which they came. Many are delivered to by their broadcasters."""

    __slots__ = ("_groups", "_transports")

    def __init__(self) -> None:
        # What a delivery needs is at hand: the transports.
        self._transports: dict[Subscription, Transport] = {}
        # The transports of each broadcaster; those without one are under None. Made when needed, and dropped, never
        # changed, when a subscriber comes or goes: a broadcaster may keep the group that it was given.
        self._groups: list[tuple[Broadcaster | None, Collection[Transport]]] | None = None

    def add(self, subscription: Subscription) -> None:
        self._transports[subscription] = subscription.subscriber.transport
        self._groups = None

    def remove(self, subscription: Subscription) -> None:
        del self._transports[subscription]
        self._groups = None

    def __len__(self) -> int:
        return len(self._transports)

    def subscriptions(self) -> KeysView[Subscription]:
        """Return the subscriptions, in order."""
        return self._transports.keys()

    def transports(self) -> ValuesView[Transport]:
        """Return the subscribers' transports, in the same order."""
        return self._transports.values()

    def deliver(self, frame: Frame) -> None:
        """Send ``frame`` to every subscriber."""
        transports = self._transports
        if len(transports) < MIN_BROADCAST:
            for transport in transports.values():
                transport.send(frame)
            return
        if self._groups is None:
            self._groups = self._divide()
        for broadcaster, group in self._groups:
            if broadcaster is not None:
                broadcaster.broadcast(frame, group)
            else:
                for transport in group:
                    transport.send(frame)

    def _divide(self) -> list[tuple[Broadcaster | None, Collection[Transport]]]:
        # A dict keeps the order, and ``in`` is a fast test on it.
        groups: dict[Broadcaster | None, dict[Transport, None]] = {}
        for transport in self._transports.values():
            groups.setdefault(transport.broadcaster, {})[transport] = None
        return list(groups.items())
