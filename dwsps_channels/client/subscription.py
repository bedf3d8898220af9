"""One reader of a topic, with its unread messages."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType
from typing import Protocol, Self

from dwsps_channels.client.errors import ClientError
from dwsps_channels.client.messages import Message

logger = logging.getLogger("dwsps_channels.client")


class Registry(Protocol):
    """The owner of subscriptions."""

    async def attach(self, subscription: "Subscription") -> None:
        """Start to deliver messages to it; return when the server has acknowledged."""

    def detach(self, subscription: "Subscription") -> asyncio.Future[None]:
        """Stop delivering to it at once; done when the server has acknowledged."""


class Subscription:
    """The messages of a topic and its sub-topics, across reconnections, for one reader.

    Made by ``Client.subscribe``. It begins with ``async with`` or with ``async for``, and ends with the block or
    the loop. Messages wait for a slow reader up to a limit; beyond it the oldest are dropped, counted and logged.
    """

    def __init__(
        self, registry: Registry, topic: str, *, max_messages: int, max_bytes: int
    ) -> None:
        self.topic = topic
        self.dropped = 0
        """Number of messages that were dropped because this reader was too slow."""
        self._registry = registry
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._dropping = False  # told in the log once, until the reader has caught up
        self._wake = asyncio.Event()
        self._begun = False
        self._ended = False
        self._error: ClientError | None = None

    def __repr__(self) -> str:
        return f"<Subscription {self.topic!r}: {len(self._messages)} waiting>"

    async def begin(self) -> None:
        """Subscribe; return when the server has acknowledged.

        Raises:
            RuntimeError: it has begun before.
            CallError: the server refused, or the client is closed.
        """
        if self._begun:
            raise RuntimeError("a subscription begins once: subscribe again")
        self._begun = True
        try:
            await self._registry.attach(self)
        except BaseException:
            self.end(None)
            raise

    async def unsubscribe(self) -> None:
        """End it at once; return when the server has acknowledged, if this was the topic's last subscription.

        Raises:
            CallError: the server did not acknowledge. It may go on sending; nobody here gets it.
        """
        await self.leave()

    async def get(self) -> Message | None:
        """Wait for the next message. ``None``: the subscription has ended.

        Raises:
            ClientError: the server refused the subscription after a reconnection, or closed for good.
        """
        while not self._messages:
            if self._ended:
                if self._error is not None:
                    raise self._error
                return None
            self._wake.clear()
            await self._wake.wait()
        message = self._messages.popleft()
        self._bytes -= len(message.raw)
        if not self._messages:
            self._dropping = False
        return message

    async def __aenter__(self) -> Self:
        await self.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()

    async def __aiter__(self) -> AsyncGenerator[Message, None]:
        owned = not self._begun
        if owned:
            await self.begin()
        try:
            while (message := await self.get()) is not None:
                yield message
        finally:
            if owned:
                self.leave()

    def leave(self) -> asyncio.Future[None]:
        """End it at once, and drop its messages. The result is done when the server has acknowledged."""
        self._messages.clear()
        self._bytes = 0
        self.end(None)
        return self._registry.detach(self)

    async def call(self, callback: Callable[[Message], object]) -> None:
        """Give each message to ``callback``, one after the other, until the end. Its exceptions are logged."""
        async for message in self:
            try:
                result = callback(message)
                if isinstance(result, Awaitable):
                    await result
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                logger.error("a callback for %r was cancelled from within", self.topic)
            except Exception:
                logger.exception("a callback for %r raised", self.topic)

    # For the client.

    def take(self, message: Message) -> None:
        """Keep a message for the reader."""
        if self._ended:
            return
        self._messages.append(message)
        self._bytes += len(message.raw)
        while len(self._messages) > self._max_messages or (
            self._bytes > self._max_bytes and len(self._messages) > 1
        ):
            self._bytes -= len(self._messages.popleft().raw)
            self.dropped += 1
            if not self._dropping:
                self._dropping = True
                logger.warning(
                    "a reader of %r is too slow: its oldest messages are dropped", self.topic
                )
        self._wake.set()

    def end(self, error: ClientError | None) -> None:
        """End it: the reader gets the waiting messages, and then ``error`` or the end."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake.set()
