"""The subscriptions to one topic, and the delivery of a frame to all of them."""

from collections.abc import Collection, KeysView

from dwsps_channels.core.subscription import Subscription
from dwsps_channels.core.transport import Broadcaster, Recipient
from dwsps_channels.protocol.frames import Frame
from dwsps_channels.protocol.topics import contexts

# The parts of an audience that are kept: those of the denied topics that are published to now.
MAX_PARTS = 16

# Below this number of subscribers a ``send`` to each is cheaper than a broadcast.
MIN_BROADCAST = 8


class _Denial:
    """The subscriptions to one topic that do not get the same sub-topics."""

    __slots__ = ("denied", "subscriptions")

    def __init__(self, denied: frozenset[str]) -> None:
        self.denied = denied
        self.subscriptions: set[Subscription] = set()


class Audience:
    """The subscriptions to a topic, in the order in which they came. Many are delivered to by their broadcasters.

    If ``denying`` is not empty, deliver to ``allowed(topic)`` instead.
    """

    __slots__ = ("_denials", "_groups", "_parts", "_transports", "denying")

    def __init__(self) -> None:
        # What a delivery needs is at hand: the transports.
        self._transports: dict[Subscription, Recipient] = {}
        # The transports of each broadcaster; those without one are under None. Made when needed, and dropped, never
        # changed, when a subscriber comes or goes: a broadcaster may keep the group that it was given.
        self._groups: list[tuple[Broadcaster | None, Collection[Recipient]]] | None = None
        self.denying: dict[str, set[_Denial]] | None = None
        """By denied sub-topic the subscriptions that do not get it; empty or ``None``: all get everything."""
        # By what is denied: most subscriptions share it with others.
        self._denials: dict[frozenset[str], _Denial] | None = None
        # By the deepest denied topic on a publication's way the others. Dropped, and made again, as groups are.
        self._parts: dict[str, Audience] | None = None

    def add(self, subscription: Subscription) -> None:
        self._transports[subscription] = subscription.subscriber.transport
        self._groups = self._parts = None
        self._note_denied(subscription)

    def remove(self, subscription: Subscription) -> None:
        del self._transports[subscription]
        self._groups = self._parts = None
        self._forget_denied(subscription)

    def deny(self, subscription: Subscription, denied: frozenset[str]) -> None:
        """Replace what a subscription does not get. It keeps its place."""
        self._forget_denied(subscription)
        subscription.denied = denied
        self._note_denied(subscription)
        self._parts = None

    def _note_denied(self, subscription: Subscription) -> None:
        if not subscription.denied:
            return
        if self._denials is None or self.denying is None:
            self._denials, self.denying = {}, {}
        denial = self._denials.get(subscription.denied)
        if denial is None:
            denial = self._denials[subscription.denied] = _Denial(subscription.denied)
            for topic in denial.denied:
                self.denying.setdefault(topic, set()).add(denial)
        subscription.denied = denial.denied  # equal ones are kept once
        denial.subscriptions.add(subscription)

    def _forget_denied(self, subscription: Subscription) -> None:
        if not subscription.denied or self._denials is None or self.denying is None:
            return
        denial = self._denials[subscription.denied]
        denial.subscriptions.remove(subscription)
        if not denial.subscriptions:
            del self._denials[denial.denied]
            for topic in denial.denied:
                self.denying[topic].remove(denial)
                if not self.denying[topic]:
                    del self.denying[topic]

    def allowed(self, topic: str) -> "Audience":
        """Return the part of the audience that gets what is published to ``topic``, perhaps all of it. Do not change it."""
        denying = self.denying
        hit = [each for each in contexts(topic) if each in denying] if denying else ()
        if not denying or not hit:
            return self
        parts = self._parts
        if parts is None or len(parts) >= MAX_PARTS:
            parts = self._parts = {}
        # The deepest one tells which others there are.
        part = parts.get(hit[0])
        if part is None:
            part = parts[hit[0]] = Audience()
            part._transports = self._transports.copy()
            for denial in set().union(*map(denying.__getitem__, hit)):
                for subscription in denial.subscriptions:
                    del part._transports[subscription]
        return part

    def redirect(self, subscription: Subscription, recipient: Recipient) -> None:
        """Deliver to ``recipient`` from now on because of a subscription. It keeps its place."""
        self._transports[subscription] = recipient
        self._groups = self._parts = None

    def __len__(self) -> int:
        return len(self._transports)

    def subscriptions(self) -> KeysView[Subscription]:
        """Return the subscriptions, in order."""
        return self._transports.keys()

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

    def _divide(self) -> list[tuple[Broadcaster | None, Collection[Recipient]]]:
        # A dict keeps the order, and ``in`` is a fast test on it.
        groups: dict[Broadcaster | None, dict[Recipient, None]] = {}
        for transport in self._transports.values():
            groups.setdefault(transport.broadcaster, {})[transport] = None
        return list(groups.items())
