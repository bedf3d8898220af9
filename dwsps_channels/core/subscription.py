"""Subscriptions, and the connections that have them."""

from typing import Final

from dwsps_channels.core.transport import Transport


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

    __slots__ = ("subscriber", "topic")

    def __init__(self, subscriber: Subscriber, topic: str) -> None:
        self.subscriber: Final = subscriber
        self.topic: Final = topic
