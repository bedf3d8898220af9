"""A publisher that does as the test says."""

from collections.abc import Callable

from dwsps_channels.publishing.publisher import OutgoingMessage, PublishResult


class ScriptedPublisher:
    """Notes each message, and calls ``does`` for it, which may raise. See ``Publisher``."""

    def __init__(self, does: Callable[[OutgoingMessage], object] = lambda message: None) -> None:
        self.does = does
        self.published: list[OutgoingMessage] = []

    @property
    def topics(self) -> list[str]:
        return [message.topic for message in self.published]

    def publish(self, message: OutgoingMessage) -> PublishResult:
        self.published.append(message)
        self.does(message)
        return PublishResult(reached=0, offset=len(self.published))

    async def apublish(self, message: OutgoingMessage) -> PublishResult:
        return self.publish(message)
