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
        """Take note that a subscription ended: by its client, or because it is not allowed any more.

        Subscriptions that end with their connection are not reported.
        """

    def published(self, identity: Identity, topic: str, message: Raw) -> None:
        """Take note of a client's publish. The broker may still refuse it, but not at once.

        One with a key is told about once the broker has it, unless it was published before with that key. ``message``
        is the published JSON.
        """
