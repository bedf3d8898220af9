"""Publishing in tests: to a list."""

import json
from collections.abc import MutableSequence

from dwsps_channels.capturing import Published
from dwsps_channels.core.notice import Notice
from dwsps_channels.publishing.publisher import OutgoingMessage, PublishResult


class CapturingPublisher:
    """Appends messages to a list; sends nothing. See ``Publisher``.

    A message's offset is its place in the list, from 1 on. A key that the list has is not published again.
    """

    def __init__(self, published: MutableSequence[Published]) -> None:
        self._published = published

    def publish(self, message: OutgoingMessage) -> PublishResult:
        """See ``Publisher.publish``."""
        published = self._published
        if message.key:
            for offset, earlier in enumerate(published, 1):
                if (earlier.key, earlier.durable) == (message.key, bool(message.durable_id)):
                    return PublishResult(reached=0, offset=offset)
        published.append(
            Published(
                message.topic,
                json.loads(bytes(message.payload)),
                key=message.key,
                timestamp=message.timestamp,
                durable=bool(message.durable_id),
            )
        )
        return PublishResult(reached=0, offset=len(published))

    async def apublish(self, message: OutgoingMessage) -> PublishResult:
        """See ``Publisher.apublish``."""
        return self.publish(message)

    def notify(self, notice: Notice, *, again: bool = False) -> None:
        """Do nothing: there are no connections to tell."""

    async def anotify(self, notice: Notice) -> None:
        """Do nothing, likewise."""
