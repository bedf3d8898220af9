"""A channel layer that does on demand what a real one does on a bad day."""

import asyncio
from typing import Any

from channels.layers import InMemoryChannelLayer

Message = dict[str, Any]


class Layer(InMemoryChannelLayer):
    """In memory; shared by the brokers of a test, as Redis would be."""

    def __init__(self) -> None:
        super().__init__(capacity=10_000)
        self.away = False
        """Every call fails that would need the network; those that wait go on waiting."""
        self.mute = False
        """The next that is sent fails; the rest works."""
        self.lying = False
        """The next that is sent arrives and is received, and then the call fails."""
        self.losing = False
        """True: messages are accepted and dropped."""
        self.twice = False
        """True: messages arrive twice."""
        self.garbled = False
        """The next message that is received cannot be decoded."""
        self.open = asyncio.Event()
        """While it is not set, what is sent is stuck."""
        self.open.set()
        self.sent: list[Message] = []
        """The sent messages, without heartbeats."""
        self.beats = 0
        """The number of heartbeats that were sent."""
        self.calls = 0
        """The number of uses of the network."""

    def _reach(self) -> None:
        self.calls += 1
        if self.away:
            raise ConnectionError("the layer is away")

    async def group_add(self, group: str, channel: str) -> None:
        self._reach()
        await super().group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        self._reach()
        await super().group_discard(group, channel)

    async def group_send(self, group: str, message: Message) -> None:
        self._reach()
        await self.open.wait()
        if self.mute:
            self.mute = False
            raise ConnectionError("the layer takes nothing")
        if message.get("batch") == "[]":
            self.beats += 1
        else:
            self.sent.append(message)
            if self.losing:
                return
        for _ in range(2 if self.twice else 1):
            await super().group_send(group, message)
        if self.lying and message.get("batch") != "[]":
            self.lying = False
            for _ in range(5):
                await asyncio.sleep(0)
            raise ConnectionError("the connection was closed before the answer came")

    async def receive(self, channel: str) -> Message:
        message: Message = await super().receive(channel)
        if self.garbled:
            self.garbled = False
            raise ValueError("garbled")
        return message

    def forget_groups(self) -> None:
        """As Redis does when it is restarted."""
        self.groups.clear()
