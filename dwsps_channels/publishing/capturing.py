"""Publishing in tests: to a list."""

import json
from collections.abc import MutableSequence

from dwsps_channels.capturing import Published
from dwsps_channels.publishing.publisher import OutgoingMessage, PublishResult


class CapturingPublisher:
    """Appends messages to a list; sends nothing. See ``Publisher``."""

    def __init__(self, published: MutableSequence[Published]) -> None:
        self._published = published

    def publish(self, message: OutgoingMessage) -> PublishResult:
        """See ``Publisher.publish``."""
        self._published.append(Published(message.topic, json.loads(bytes(message.payload))))
        return PublishResult(reached=0)

    async def apublish(self, message: OutgoingMessage) -> PublishResult:
        """See ``Publisher.apublish``."""
        return self.publish(message)
