"""Publishing to the server through the broker that its processes share."""

from uuid import uuid4

from msgspec import Raw

from dwsps_channels.broker.backends import BrokerSender
from dwsps_channels.core.publication import Publication


class BrokerPublisher:
    """Publishes with a sender of the broker: see ``Publisher``."""

    def __init__(self, sender: BrokerSender) -> None:
        self._sender = sender
        self._origin = uuid4().hex
        self._published = 0

    def publish(self, topic: str, message: Raw, timestamp: str, deadline: float) -> str:
        """See ``Publisher.publish``."""
        self._published += 1
        publication = Publication(topic, message, timestamp, self._origin, self._published)
        return self._sender.publish(publication, deadline)

    def close(self) -> None:
        """See ``Publisher.close``."""
        self._sender.close()
