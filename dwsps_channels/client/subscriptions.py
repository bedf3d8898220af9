"""Subscriptions across connections: the topics, and the readers of each."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from dwsps_channels.client.calls import Call
from dwsps_channels.client.errors import CallError, CallTimeout, Cancelled, ClientClosed
from dwsps_channels.client.exchange import Exchange
from dwsps_channels.client.futures import fail, resolve, resolved
from dwsps_channels.client.messages import Incoming
from dwsps_channels.client.subscription import Subscription
from dwsps_channels.client.window import Window
from dwsps_channels.protocol.errors import RateLimited

logger = logging.getLogger("dwsps_channels.client")


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody waits for a subscribe to be answered."""

    future: asyncio.Future[None]
    subscription: Subscription


@dataclass(slots=True, eq=False)
class _Topic:
    """The wanted state of a topic, whether or not the server knows it."""

    name: str
    readers: dict[Subscription, None] = field(default_factory=dict)
    waiting: list[_Waiter] = field(default_factory=list)
    """Those whose subscribe is not sent yet."""
    asked: int = 0
    """Subscribes that were sent and are not answered."""
    live: bool = False
    """Acknowledged on this connection."""
    granted: bool = False
    """Acknowledged on any."""


class Subscriptions:
    """Keeps the server's idea of what is subscribed to the same as its readers'."""

    def __init__(
        self,
        check: Callable[[str], None],
        send_more: Callable[[], None],
        jitter: Callable[[int], float],
    ) -> None:
        """Take the callbacks of the client.

        Args:
            check: raises if a topic cannot be subscribed to now.
            send_more: called when there is something for ``send_next``.
            jitter: seconds to wait before asking again, for the first time (0), the second, …
        """
        self._check = check
        self._send_more = send_more
        self._jitter = jitter
        self._topics: dict[str, _Topic] = {}
        self._unsaid: deque[tuple[str, asyncio.Future[None]]] = deque()  # unsubscribes to send
        self._unasked: dict[_Topic, None] = {}  # subscribes to send, in this order
        # What stood, or waited, before the connection, and does not stand yet.
        self._restoring: set[_Topic] = set()
        self._restored: Callable[[], None] = lambda: None
        self._exchange: Exchange | None = None  # with the server, where there is a connection
        self._window: Window | None = None
        self._refusals = (
            0  # how often the server put off what was subscribed to before, on this connection
        )
        self._asking_again: asyncio.TimerHandle | None = None

    @property
    def topics(self) -> list[str]:
        """Their names, those included that wait for a connection or an ack."""
        return list(self._topics)

    # Readers

    async def attach(self, subscription: Subscription) -> None:
        """Let it get messages; return when the server has acknowledged."""
        self._check(subscription.topic)
        topic = self._topics.setdefault(subscription.topic, _Topic(subscription.topic))
        topic.readers[subscription] = None
        waiter = _Waiter(asyncio.get_running_loop().create_future(), subscription)
        topic.waiting.append(waiter)
        if self._exchange is not None:
            self._unasked[topic] = None
            self._send_more()
        try:
            await waiter.future
        except asyncio.CancelledError:
            self.detach(subscription)
            raise

    def detach(self, subscription: Subscription) -> asyncio.Future[None]:
        """Let it get no more, at once; done when the server has acknowledged."""
        topic = self._topics.get(subscription.topic)
        if topic is None or subscription not in topic.readers:
            return resolved()
        del topic.readers[subscription]
        if not topic.readers:
            return self._drop(topic)
        for waiter in topic.waiting:
            if waiter.subscription is subscription:
                fail(waiter.future, _cancelled(topic))
        return resolved()

    def end(self, name: str) -> asyncio.Future[None]:
        """End all subscriptions to a topic; done when the server has acknowledged."""
        topic = self._topics.get(name)
        if topic is None:
            return resolved()
        for subscription in topic.readers:
            subscription.end(None)
        return self._drop(topic)

    def deliver(self, frame: Incoming) -> None:
        """Give a message to the readers that it is for.

        Raises:
            InvalidFrame: it cannot be read.
        """
        topic = self._topics.get(frame.subscription)
        if topic is not None:
            message = frame.delivery()
            for subscription in topic.readers:
                subscription.take(message)

    # Connections

    def connected(self, exchange: Exchange, window: Window, restored: Callable[[], None]) -> None:
        """Subscribe again, as ``window`` lets it; ``restored`` is called when all stand, or were refused for good."""
        self._exchange = exchange
        self._window = window
        self._refusals = 0
        self._restored = restored
        self._restoring = set(self._topics.values())
        self._unasked = dict.fromkeys(self._topics.values())
        if not self._restoring:
            restored()

    @property
    def has_unsent(self) -> bool:
        """Return whether ``send_next`` has something to send."""
        return bool(self._unsaid or self._unasked)

    def send_next(self) -> None:
        """Send the first of what the server is to be told or asked."""
        if self._unsaid:
            self._leave(*self._unsaid.popleft())
            return
        topic = next(iter(self._unasked))
        del self._unasked[topic]
        waiters, topic.waiting = topic.waiting, []
        self._ask(topic, waiters)

    def disconnected(self) -> None:
        """Note that the connection is gone, and with it what the server knew."""
        self._exchange = None
        self._window = None
        self._unasked.clear()
        self._restoring.clear()
        while self._unsaid:  # a subscription ends with its connection
            resolve(self._unsaid.popleft()[1])
        if self._asking_again is not None:
            self._asking_again.cancel()
            self._asking_again = None
        for topic in self._topics.values():
            topic.live, topic.asked = False, 0

    def close(self, why: str, *, is_error: bool) -> None:
        """There will be no connection any more. Readers come to their end, or to an error."""
        topics, self._topics = self._topics, {}
        for topic in topics.values():
            error = ClientClosed("subscribe", topic.name, why)
            for waiter in topic.waiting:
                fail(waiter.future, error)
            for subscription in topic.readers:
                subscription.end(error if is_error else None)

    # With the server

    def _drop(self, topic: _Topic) -> asyncio.Future[None]:
        """Nobody wants the topic any more."""
        self._forget(topic)
        for waiter in topic.waiting:
            fail(waiter.future, _cancelled(topic))
        if self._exchange is None or not (topic.live or topic.asked):
            return resolved()  # the server does not know of it
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unsaid.append((topic.name, future))
        self._send_more()
        return future

    def _leave(self, name: str, future: asyncio.Future[None]) -> None:
        """Tell the server that nobody wants a topic, unless somebody wants it again."""
        assert self._exchange is not None
        assert self._window is not None
        if name in self._topics:
            resolve(future)
            return

        def refused(error: CallError) -> None:
            if error.code == RateLimited.code and self._exchange is not None:
                self._unsaid.append((name, future))
                return
            fail(future, error)
            if not future.cancelled():
                future.exception()  # it is no defect if nobody waits for it

        done = partial(resolve, future)
        # A subscription ends with its connection: if that is lost, the server has forgotten it.
        call = Call("unsubscribe", name, done, refused, lost=lambda reason: done())
        self._exchange.send(self._window.count(call))

    def _forget(self, topic: _Topic) -> None:
        del self._topics[topic.name]
        self._unasked.pop(topic, None)
        self._settle(topic)

    def _settle(self, topic: _Topic) -> None:
        """Note that the topic's subscription stands or is gone."""
        if topic in self._restoring:
            self._restoring.discard(topic)
            if not self._restoring:
                self._restored()

    def _ask(self, topic: _Topic, waiters: list[_Waiter]) -> None:
        """Ask the server for a subscription, for those who wait for it (nobody: it is asked for again)."""
        assert self._exchange is not None
        assert self._window is not None
        topic.asked += 1

        def done() -> None:
            topic.asked -= 1
            topic.live = topic.granted = True
            for waiter in waiters:
                resolve(waiter.future)
            self._settle(topic)

        def refused(error: CallError) -> None:
            topic.asked -= 1
            if error.code == RateLimited.code and self._topics.get(topic.name) is topic:
                topic.waiting[:0] = waiters
                self._unasked[topic] = None
            else:
                self._refused(topic, waiters, error)

        def lost(reason: str) -> None:
            if self._topics.get(topic.name) is topic:
                topic.waiting += waiters  # the next connection settles it
                return
            for waiter in waiters:
                fail(waiter.future, _cancelled(topic))

        call = Call("subscribe", topic.name, done, refused, lost)
        self._exchange.send(self._window.count(call))

    def _refused(self, topic: _Topic, waiters: list[_Waiter], error: CallError) -> None:
        for waiter in waiters:
            topic.readers.pop(waiter.subscription, None)
            fail(waiter.future, error)
        if self._topics.get(topic.name) is not topic or topic.live or topic.asked or topic.waiting:
            return  # another answer decides
        if topic.readers and topic.granted and error.retryable:
            logger.warning("the server postponed a subscription: %s", error)
            self._ask_again_soon()
            return
        if topic.readers:
            logger.error("a subscription could not be restored: %s", error)
        for subscription in topic.readers:
            subscription.end(error)
        if isinstance(error, CallTimeout) and self._exchange is not None:
            # The server may still come round to it: it must not deliver what nobody wants.
            self._exchange.send(Call("unsubscribe", topic.name, _ignore, _ignore, _ignore))
        self._forget(topic)

    def _ask_again_soon(self) -> None:
        if self._asking_again is None and self._exchange is not None:
            delay = self._jitter(self._refusals)
            self._refusals += 1
            loop = asyncio.get_running_loop()
            self._asking_again = loop.call_later(delay, self._ask_again)

    def _ask_again(self) -> None:
        self._asking_again = None
        for topic in self._topics.values():
            if not topic.live and not topic.asked:
                self._unasked[topic] = None
        self._send_more()


def _cancelled(topic: _Topic) -> Cancelled:
    return Cancelled("subscribe", topic.name, "unsubscribed before the server had answered")


def _ignore(*_: object) -> None:
    pass
