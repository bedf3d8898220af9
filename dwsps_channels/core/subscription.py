"""Subscriptions, and the connections that have them."""

from typing import Final

from dwsps_channels.core.limits import Limits
from dwsps_channels.core.transport import Transport
from dwsps_channels.protocol.errors import TooManySubscriptions
from dwsps_channels.protocol.topics import size


class Subscriber:
    """A connection that receives deliveries, and its subscriptions."""

    __slots__ = ("size", "subscriptions", "transport")

    def __init__(self, transport: Transport) -> None:
        self.transport: Final = transport
        """Takes the deliveries."""
        self.subscriptions: dict[str, Subscription] = {}
        """By topic. Changed by the hub alone."""
        self.size = 0
        """The bytes of these topics. Changed by the hub alone."""


class Subscription:
    """A subscriber's subscription to a topic. There is at most one for a topic."""

    __slots__ = ("denied", "grant", "subscriber", "topic")

    def __init__(
        self, subscriber: Subscriber, topic: str, denied: frozenset[str] = frozenset()
    ) -> None:
        self.subscriber: Final = subscriber
        self.topic: Final = topic
        self.denied = denied
        """The sub-topics that it does not get, with all below them. Changed by the hub alone."""
        self.grant = ""
        """The grant that it was allowed by; empty: the policy did."""


class SubscriptionQuota:
    """The room that a subscriber has for further subscriptions. It shrinks with each that is admitted."""

    __slots__ = ("_count", "_limits", "_size", "_subscriptions")

    def __init__(self, subscriber: Subscriber, limits: Limits) -> None:
        self._subscriptions = subscriber.subscriptions
        self._limits = limits
        self._count = len(subscriber.subscriptions)
        self._size = subscriber.size

    def admit(self, topic: str) -> None:
        """Count a subscription to a valid topic; one that is there already takes no room.

        Raises:
            TooManySubscriptions: there is no room for it.
        """
        if topic in self._subscriptions:
            return
        limits, topic_size = self._limits, size(topic)
        if self._count >= limits.subscriptions:
            raise TooManySubscriptions(limits.subscriptions)
        if self._size + topic_size > limits.subscription_bytes:
            raise TooManySubscriptions(limits.subscription_bytes, "bytes of topics")
        self._count += 1
        self._size += topic_size
