"""The way to the server over the channel layer that its processes share."""

from uuid import uuid4

from msgspec import Raw

from dwsps_channels.broker.channel_layer.layers import layer_factory
from dwsps_channels.broker.channel_layer.sender import ChannelLayerSender
from dwsps_channels.conf import conf
from dwsps_channels.core.publication import Publication


class BrokerPublisher:
    """Publishes over the channel layer of this alias: see ``Publisher``."""

    def __init__(self, alias: str) -> None:
        self._sender = ChannelLayerSender(layer_factory(alias), group=conf.group)
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
