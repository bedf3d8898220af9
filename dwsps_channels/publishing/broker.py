"""Publishing to the server through the broker that its processes share."""

from uuid import uuid4

from dwsps_channels.broker.backends import BrokerSender
from dwsps_channels.core.broker import SendResult
from dwsps_channels.core.keys import server_key
from dwsps_channels.core.notice import Notice, publication_of
from dwsps_channels.core.publication import Publication
from dwsps_channels.publishing.publisher import OutgoingMessage


class BrokerPublisher:
    """Publishes with a sender of the broker: see ``BlockingPublisher``."""

    def __init__(self, sender: BrokerSender) -> None:
        self._sender = sender
        self._origin = uuid4().hex
        self._published = 0

    def publish(self, message: OutgoingMessage, deadline: float) -> SendResult:
        """See ``BlockingPublisher.publish``."""
        self._published += 1
        publication = Publication(
            message.topic, message.payload, message.timestamp, self._origin, self._published
        )
        return self._sender.publish(publication, deadline, server_key(message.broker_key))

    def notify(self, notice: Notice, deadline: float) -> None:
        """See ``BlockingPublisher.notify``."""
        self._sender.publish(publication_of(notice), deadline)

    def close(self) -> None:
        """See ``BlockingPublisher.close``."""
        self._sender.close()
