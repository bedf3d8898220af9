"""One reader of a topic, with its unread messages."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from enum import Enum, auto
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self

from msgspec import Struct

from dwsps_channels.client.errors import ClientError, InvalidCall
from dwsps_channels.client.grant import Grant
from dwsps_channels.client.messages import Message, to_json

logger = logging.getLogger("dwsps_channels.client")

OnReset = Callable[[], object]
"""A function or coroutine function that loads the reader's state again."""

MAX_CURSOR: Final = 128


class Start(Struct, frozen=True):
    """The place in the log from which a subscription begins: ``since`` a cursor, or with the ``last`` messages."""

    since: str | None = None
    last: int = 0

    @classmethod
    def checked(cls, topic: str, since: Any, last: Any) -> "Start | None":
        """Return what a caller asks for; ``None``: nothing.

        Raises:
            InvalidCall: both are given, or one cannot be sent.
        """

        def wrong(reason: str) -> InvalidCall:
            return InvalidCall("subscribe", topic, "invalid_message", reason)

        if since is None and last is None:
            return None
        if since is not None and last is not None:
            raise wrong("'since' and 'last' exclude each other")
        if since is not None:
            if not isinstance(since, str) or not 0 < len(since) <= MAX_CURSOR:
                raise wrong(f"'since' is a cursor, a text of 1 to {MAX_CURSOR} characters")
            return cls(since=since)
        if not isinstance(last, int) or last < 0:
            raise wrong("'last' is a number of messages, and not negative")
        return cls(last=last)

    @property
    def has_replay(self) -> bool:
        """Return whether the server may send messages that are older than the subscription."""
        return self.since is not None or self.last > 0

    def payload(self) -> bytes:
        """Return the fields for the request. ``last`` 0 says that this client knows what a reset is."""
        if self.since is not None:
            return b',"since":%s' % to_json(self.since)
        return b',"last":%d' % self.last


LIVE: Final = Start()


class _Phase(Enum):
    WAITING = auto()  # its subscribe is not sent, on this connection
    ASKED = auto()
    OPEN = auto()  # it was acknowledged, on this connection or an earlier one
    ENDED = auto()


class Marker(Enum):
    """A place in the queue of messages."""

    RESET = auto()
    """Some messages are missing here."""


Item = Message | Literal[Marker.RESET]


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
        self,
        registry: Registry,
        topic: str,
        *,
        start: Start | None = None,
        grant: Grant | None = None,
        on_reset: OnReset | None = None,
        max_messages: int,
        max_bytes: int,
    ) -> None:
        self.topic = topic
        self.dropped = 0
        """Number of messages that were dropped because this reader was too slow."""
        self.start = start
        """``None``: the caller has no wish."""
        self.grant = grant
        self._registry = registry
        self._on_reset = on_reset
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._queue: deque[Item] = deque()
        self._bytes = 0
        self._dropping = False  # told in the log once, until the reader has caught up
        self._offset = 0  # of the last message, in this epoch: what is not above it has come before
        self._wake = asyncio.Event()
        self._begun = False
        self._phase = _Phase.WAITING
        self._error: ClientError | None = None

    def __repr__(self) -> str:
        waiting = sum(item is not Marker.RESET for item in self._queue)
        return f"<Subscription {self.topic!r}: {waiting} waiting>"

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

        If messages are missing before it, ``on_reset`` is called first, and awaited.

        Raises:
            ClientError: the server refused the subscription after a reconnection, or closed for good.
        """
        while self._queue or await self._has_more():
            item = self._pop()
            if item is not Marker.RESET:
                return item
            try:
                await self._tell_reset()
            except asyncio.CancelledError:
                self._queue.appendleft(item)  # the next call begins it again
                raise
        return None

    async def next(self) -> Item | None:
        """Wait for the next message, or for the place where some are missing: a reader without ``on_reset`` has none."""
        return self._pop() if self._queue or await self._has_more() else None

    async def _has_more(self) -> bool:
        """Wait until there is something to read; false: it has ended."""
        while not self._queue:
            if self._phase is _Phase.ENDED:
                if self._error is not None:
                    raise self._error
                return False
            self._wake.clear()
            await self._wake.wait()
        return True

    def _pop(self) -> Item:
        item = self._queue.popleft()
        if item is not Marker.RESET:
            self._bytes -= len(item.raw)
        if not self._queue:
            self._dropping = False
        return item

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
        self._clear()
        self.end(None)
        return self._registry.detach(self)

    async def call(self, callback: Callable[[Message], object]) -> None:
        """Give each message to ``callback``, one after the other, until the end. Its exceptions are logged."""
        while (item := await self.next()) is not None:
            try:
                if item is Marker.RESET:
                    await self._tell_reset()
                else:
                    result = callback(item)
                    if isinstance(result, Awaitable):
                        await result
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                logger.error("a callback for %r was cancelled from within", self.topic)
            except Exception:
                logger.exception("a callback for %r raised", self.topic)

    async def _tell_reset(self) -> None:
        result = None if self._on_reset is None else self._on_reset()
        if isinstance(result, Awaitable):
            await result

    # For the client.

    @property
    def is_open(self) -> bool:
        """Return whether it was acknowledged, and has not ended."""
        return self._phase is _Phase.OPEN

    def wait(self) -> None:
        """Note that its subscribe has yet to be sent, on this connection or on the next."""
        if self._phase is _Phase.ASKED:
            self._phase = _Phase.WAITING

    def ask(self) -> None:
        """Note that its subscribe is sent: what comes from now on is for it."""
        if self._phase is _Phase.WAITING:
            self._phase = _Phase.ASKED
            self._offset = 0
            self._clear()

    def open(self, offset: int | None, since: int = 0) -> None:
        """Note that the server has acknowledged.

        Args:
            offset: everything up to it was sent; ``None``: the server has no log.
            since: what is not above it was not asked for.
        """
        if self._phase is not _Phase.ASKED:
            return
        self._phase = _Phase.OPEN
        if offset is not None and self._has_replay:
            # What another subscription brought stands before what was replayed, or among it.
            came = {item.offset or 0: item for item in self._queue if isinstance(item, Message)}
            has_dropped = Marker.RESET in self._queue
            self._clear()
            if has_dropped:
                self._mark()
            for number in sorted(came):
                if number > since:
                    self._put(came[number])
        self._offset = offset or 0

    def restart(self, offset: int | None) -> None:
        """Note that messages are missing: it goes on after ``offset``."""
        if self._phase is _Phase.OPEN:
            self._offset = offset or 0
            self._mark()
        elif self._phase is _Phase.ASKED:
            self._clear()

    def forget_early(self) -> None:
        """Drop what came before the answer to its subscribe: an earlier subscription brought it, and a gap follows."""
        if self._phase is _Phase.ASKED:
            self._clear()

    def forget_offset(self) -> None:
        """Note that offsets begin again."""
        self._offset = 0

    def take(self, message: Message) -> None:
        """Keep a message for the reader, unless it has had it."""
        phase = self._phase
        if phase is _Phase.OPEN or (phase is _Phase.ASKED and not self._has_replay):
            offset = message.offset
            if offset is not None:
                if offset <= self._offset:
                    return
                self._offset = offset
        elif phase is not _Phase.ASKED:
            return
        self._put(message)

    def end(self, error: ClientError | None) -> None:
        """End it: the reader gets the waiting messages, and then ``error`` or the end."""
        if self._phase is not _Phase.ENDED:
            self._phase = _Phase.ENDED
            self._error = error
            self._wake.set()

    @property
    def _has_replay(self) -> bool:
        return self.start is not None and self.start.has_replay

    def _put(self, message: Message) -> None:
        queue = self._queue
        if not queue:
            self._wake.set()
        queue.append(message)
        self._bytes += len(message.raw)
        if len(queue) > self._max_messages or self._bytes > self._max_bytes:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        queue, missing = self._queue, False
        while len(queue) > self._max_messages or (self._bytes > self._max_bytes and len(queue) > 1):
            item = queue.popleft()
            missing = True
            if item is not Marker.RESET:
                self._bytes -= len(item.raw)
                self.dropped += 1
        if missing and self._on_reset is not None:
            queue.appendleft(Marker.RESET)
        if not self._dropping:
            self._dropping = True
            logger.warning(
                "a reader of %r is too slow: its oldest messages are dropped", self.topic
            )

    def _mark(self) -> None:
        if self._on_reset is not None and (not self._queue or self._queue[-1] is not Marker.RESET):
            self._queue.append(Marker.RESET)
            self._wake.set()

    def _clear(self) -> None:
        self._queue.clear()
        self._bytes = 0
