"""The contract of observers: what wants to know what sessions do, such as signals or metrics."""

from msgspec import Raw

from dwsps_channels.core.identity import Identity


class Observer:
    """Is called after the fact, once for each. Override what you need: a method does nothing by default.

    A method returns at once and never raises.
    """

    def connected(self, identity: Identity) -> None:
        """Take note that a connection was accepted."""

    def disconnected(self, identity: Identity) -> None:
        """Take note that a connection is gone."""

    def subscribed(self, identity: Identity, topic: str) -> None:
        """Take note of a new subscription."""

    def unsubscribed(self, identity: Identity, topic: str) -> None:
        """Take note that a client ended a subscription. Subscriptions that end with their connection are not reported."""

    def published(self, identity: Identity, topic: str, message: Raw) -> None:
        """Take note of a client's publish that the broker did not refuse at once. It may still refuse it.

        ``message`` is the published JSON, a view of the whole frame: to keep it, copy it with ``bytes``.
        """
