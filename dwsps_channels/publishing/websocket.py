"""Publishing through the server's websocket."""

from dwsps_channels.client.messages import publish_payload
from dwsps_channels.core.broker import SendResult
from dwsps_channels.core.notice import Notice, encode
from dwsps_channels.peering.inbound.worker_credentials import Purpose
from dwsps_channels.protocol.topics import NOTICES
from dwsps_channels.publishing.publisher import OutgoingMessage
from dwsps_channels.remote.websocket import WebSocketRequests


class WebSocketPublisher(WebSocketRequests):
    """Publishes over a websocket: see ``BlockingPublisher``."""

    purpose = Purpose.PUBLISH

    def publish(self, message: OutgoingMessage, deadline: float) -> SendResult:
        """See ``BlockingPublisher.publish``."""
        fields = publish_payload(bytes(message.payload), message.timestamp, message.broker_key)
        return SendResult(self.request("publish", message.topic, fields, deadline).ack.place)

    def notify(self, notice: Notice, deadline: float) -> None:
        """See ``BlockingPublisher.notify``."""
        self.request("notice", NOTICES, b',"notice":' + encode(notice), deadline)
