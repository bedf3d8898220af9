"""Subscriptions across connections: the topics, and the readers of each."""

import asyncio
from collections import deque
from collections.abc import Callable

from dwsps_channels.client.calls import Call
from dwsps_channels.client.errors import (
    CallError,
    CallTimeout,
    Cancelled,
    ClientClosed,
    NoGrant,
)
from dwsps_channels.client.exchange import Exchange
from dwsps_channels.client.futures import fail, resolve, resolved
from dwsps_channels.client.grant import Grant, grant_payload
from dwsps_channels.client.messages import Incoming
from dwsps_channels.client.position import Cursor, Position
from dwsps_channels.client.recovery import Recovery
from dwsps_channels.client.subscription import Start, Subscription
from dwsps_channels.client.topic import Topic, Waiter
from dwsps_channels.client.window import Window
from dwsps_channels.protocol.errors import RateLimited


class Subscriptions:
    """Keeps the server's idea of what is subscribed to the same as its readers', and readers' messages without a gap."""

    def __init__(
        self,
        check: Callable[[str], None],
        send_more: Callable[[], None],
        jitter: Callable[[int], float],
        on_reset: Callable[[list[str]], None],
        on_unsubscribed: Callable[[CallError], None],
        page_cursor: str,
        timeout: float,
    ) -> None:
        """Take the callbacks of the client.

        Args:
            check: raises if a topic cannot be subscribed to now.
            send_more: called when there is something for ``send_next``.
            jitter: seconds to wait before asking again, for the first time (0), the second, …
            on_reset: called with the topics of which messages are missing.
            on_unsubscribed: called with the error of a topic of which the server has ended the subscription.
            page_cursor: where subscriptions begin that are made before the client is open for the first time.
            timeout: seconds that a grant function may take.
        """
        self._check = check
        self.send_more = send_more
        self._on_reset = on_reset
        self._on_unsubscribed = on_unsubscribed
        self._page_cursor = page_cursor
        self._timeout = timeout
        self._topics: dict[str, Topic] = {}
        self._position = Position(self._topics.__contains__)
        self._keeps_page_cursor = False
        self._unsaid: deque[tuple[str, asyncio.Future[None]]] = deque()  # unsubscribes to send
        self._recovery = Recovery(self, self._position, jitter, timeout)
        self._unasked: dict[Topic, None] = {}  # subscribes to send, in this order
        self._getting_grant: set[Topic] = set()  # whose grant function has not answered
        # Those that stood, and those that waited for the connection: the client is open once all are answered.
        self._restoring: set[Topic] = set()
        self._restored: Callable[[], None] = lambda: None
        self._missed: dict[str, None] = {}  # topics whose reset the client is still to tell
        self._exchange: Exchange | None = None  # with the server, where there is a connection
        self._window: Window | None = None

    @property
    def topics(self) -> list[str]:
        """Their names, those included that wait for a connection or an ack."""
        return list(self._topics)

    @property
    def cursor(self) -> str:
        """The place up to which nothing is missing; empty: not known."""
        return str(self._position.cursor or "")

    def keep_page_cursor(self) -> None:
        """Begin from the page's cursor for as long as the first connection lasts."""
        self._keeps_page_cursor = True

    # Readers

    async def attach(self, subscription: Subscription) -> None:
        """Let it get messages; return when the server has acknowledged."""
        self._check(subscription.topic)
        if subscription.start is None and self._page_cursor:
            subscription.start = Start(since=self._page_cursor)
        topic = self._topics.setdefault(subscription.topic, Topic(subscription.topic))
        topic.readers[subscription] = None
        waiter = Waiter(asyncio.get_running_loop().create_future(), subscription)
        topic.waiting.append(waiter)
        self._ask_soon(topic)
        self.send_more()
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
        for waiter in topic.waiting[:]:
            if waiter.subscription is subscription:
                topic.waiting.remove(waiter)
                fail(waiter.future, _cancelled(topic))
        if not topic.waiting:
            self._unasked.pop(topic, None)
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
        message = frame.delivery()
        topic = self._topics.get(message.context)
        if topic is not None:
            for subscription in topic.readers:
                subscription.take(message)
        if message.offset is not None:
            self._position.deliver(message.offset, message.context)

    # The server's log

    def learn(self, text: object) -> None:
        """Take the cursor of an answer: everything up to it was sent on this connection. None: there is no log."""
        cursor = Cursor.parse(text)
        if cursor is None:
            self.forget_log()
        elif self._position.learn(cursor):
            for topic in self._topics.values():
                if topic.live:
                    self._restart(topic)
            self._tell_missed()

    def reset(self, text: object) -> None:
        """Note that the server's log does not continue: it does so from this cursor."""
        cursor = Cursor.parse(text)
        if cursor is not None:
            self._position.learn(cursor)
        for topic in self._topics.values():
            if topic not in self._recovery:  # of those the answer to the resume decides
                self._restart(topic)
        self._tell_missed()

    # The server's decisions

    def unsubscribed(self, error: CallError) -> None:
        """Note that the server has ended the subscription to the error's topic. It is not asked for again."""
        topic = self._topics.get(error.topic)
        if topic is None or not topic.live:
            return
        topic.live = topic.granted = False
        topic.grant = None
        self._missed.pop(topic.name, None)
        for subscription in list(topic.readers):
            if subscription.is_open:
                subscription.end(error)
                del topic.readers[subscription]
            else:  # the answer to its own subscribe decides
                subscription.forget_early()
        if not topic.readers:
            self._forget(topic)
        self._on_unsubscribed(error)

    def _restart(self, topic: Topic) -> None:
        """Tell the topic's readers that messages are missing before those that come now."""
        latest = self._position.latest
        if topic.live:
            self._missed[topic.name] = None
        for subscription in topic.readers:
            subscription.restart(None if latest is None else latest.offset)

    def _tell_missed(self) -> None:
        """Tell the client of all resets at once: those of a reconnect, when all subscriptions stand."""
        if self._missed and not self._restoring:
            missed, self._missed = list(self._missed), {}
            self._on_reset(missed)

    # Connections

    def connected(self, exchange: Exchange, window: Window, restored: Callable[[], None]) -> None:
        """Subscribe again, as ``window`` lets it; ``restored`` is called when all stand, or were refused for good."""
        self._exchange = exchange
        self._window = window
        self._restored = restored
        self._restoring = set(self._topics.values())
        granted = (topic for topic in self._topics.values() if topic.granted)
        self._recovery.begin(granted, exchange)
        for topic in self._topics.values():
            self._ask_soon(topic)
        if not self._restoring:
            self._open()

    @property
    def has_unsent(self) -> bool:
        """Return whether ``send_next`` has something to send."""
        return bool(self._unsaid or self._recovery.has_unsent or self._unasked)

    def send_next(self) -> None:
        """Send the first of what the server is to be told or asked."""
        if self._unsaid:
            self._leave(*self._unsaid.popleft())
        elif self._recovery.has_unsent:
            self._recovery.send_next()
        else:
            self._ask_next()

    def disconnected(self) -> None:
        """Note that the connection is gone, and with it what the server knew."""
        self._page_cursor = "" if self._keeps_page_cursor else self._page_cursor
        self._exchange = None
        self._window = None
        self._recovery.end()
        self._unasked.clear()
        self._getting_grant.clear()
        self._restoring.clear()
        while self._unsaid:  # a subscription ends with its connection
            resolve(self._unsaid.popleft()[1])
        for topic in self._topics.values():
            topic.disconnect()
        if self._position.disconnect():
            for topic in self._topics.values():
                for subscription in topic.readers:
                    subscription.forget_offset()

    def close(self, why: str, *, is_error: bool) -> None:
        """There will be no connection any more. Readers come to their end, or to an error."""
        topics = dict(self._topics)
        self._topics.clear()
        for topic in topics.values():
            error = ClientClosed("subscribe", topic.name, why)
            for waiter in topic.waiting:
                fail(waiter.future, error)
            for subscription in topic.readers:
                subscription.end(error if is_error else None)

    def _open(self) -> None:
        if not self._keeps_page_cursor:
            self._page_cursor = ""
        self._restored()

    # With the server: the end of a topic

    def _drop(self, topic: Topic) -> asyncio.Future[None]:
        """Nobody wants the topic any more."""
        for waiter in topic.waiting:
            fail(waiter.future, _cancelled(topic))
        is_known = topic.live or topic.asked
        self._forget(topic)
        if self._exchange is None or not is_known:
            return resolved()  # the server does not know of it
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unsaid.append((topic.name, future))
        self.send_more()
        return future

    def _leave(self, name: str, future: asyncio.Future[None]) -> None:
        """Tell the server that nobody wants a topic, unless somebody wants it again."""
        if name in self._topics:
            resolve(future)
            return

        def done(_: object = None) -> None:
            self._left(name)
            resolve(future)

        def refused(error: CallError) -> None:
            if error.code == RateLimited.code and self._exchange is not None:
                self._unsaid.append((name, future))
                return
            fail(future, error)
            if not future.cancelled():
                future.exception()  # it is no defect if nobody waits for it

        # A subscription ends with its connection: if that is lost, the server has forgotten it.
        self.send(Call("unsubscribe", name, done, refused, lost=done))

    def _left(self, name: str) -> None:
        """Note that the server has ended the topic's subscription. Those who ask again get nothing that it brought."""
        if (again := self._topics.get(name)) is not None:
            for subscription in again.readers:
                subscription.forget_early()

    def _forget(self, topic: Topic) -> None:
        del self._topics[topic.name]
        self._missed.pop(topic.name, None)
        self._unasked.pop(topic, None)
        self._settle(topic)

    def _settle(self, topic: Topic) -> None:
        """Note that the topic's subscription stands or is gone."""
        self._recovery.settle(topic)
        if topic in self._restoring:
            self._restoring.discard(topic)
            if not self._restoring:
                self._tell_missed()
                self._open()

    # With the server: new subscriptions

    def _ask_soon(self, topic: Topic) -> None:
        """Ask for those who wait, once nothing is in the way and their grant is there."""
        exchange = self._exchange
        if exchange is None or not topic.may_ask or topic in self._recovery:
            return
        grant = topic.next_grant
        if grant is None or grant.is_ready(exchange):
            self._unasked[topic] = None
        elif topic not in self._getting_grant:
            self._getting_grant.add(topic)
            exchange.run(self._get_grant(topic, grant, exchange))

    async def _get_grant(self, topic: Topic, grant: Grant, exchange: Exchange) -> None:
        error = None
        try:
            await grant.ask(exchange, self._timeout)
        except NoGrant as no_grant:
            error = no_grant
        self._getting_grant.discard(topic)
        if not self.is_wanted(topic):
            return
        if error is not None:
            for waiter in topic.take_with(grant):
                topic.readers.pop(waiter.subscription, None)
                fail(waiter.future, error)
            self._refused(topic, error)
        else:
            self._ask_soon(topic)
        self.send_more()

    def _ask_next(self) -> None:
        """Ask for those who wait first."""
        topic = next(iter(self._unasked))
        del self._unasked[topic]
        assert self._exchange is not None
        grant = topic.next_grant
        if grant is None or grant.is_ready(self._exchange):
            self._ask(topic, topic.next_group(), grant)
        else:  # others wait first by now
            self._ask_soon(topic)

    def _ask(self, topic: Topic, waiters: list[Waiter], grant: Grant | None) -> None:
        """Ask the server for a subscription, for those who wait for it."""
        start = waiters[0].start
        topic.asked += 1
        topic.replaying = start.has_replay
        for waiter in waiters:
            waiter.subscription.ask()

        def done(ack: Incoming) -> None:
            topic.asked -= 1
            topic.replaying = False
            topic.live = topic.granted = True
            topic.grant = waiters[0].subscription.grant or topic.grant
            topic.covered = self._position.latest is not None
            is_missing = start.since is not None and ack.recovered is not True
            cursor, since = Cursor.parse(ack.cursor), Cursor.parse(start.since)
            offset = None if cursor is None else cursor.offset
            after = since.offset if cursor and since and since.epoch == cursor.epoch else 0
            for waiter in waiters:
                waiter.subscription.open(offset, (offset or 0) if is_missing else after)
                if is_missing:
                    waiter.subscription.restart(offset)
                resolve(waiter.future)
            if self.is_wanted(topic):
                if is_missing:
                    self._missed[topic.name] = None
                    self._tell_missed()
                self._ask_soon(topic)
            self._settle(topic)

        def refused(error: CallError) -> None:
            topic.asked -= 1
            topic.replaying = False
            if not self.is_wanted(topic):
                give_up(error)
            elif error.code == RateLimited.code:
                wait_again()
                self._ask_soon(topic)
            else:
                give_up(error)
                self._refused(topic, error)

        def lost(reason: str) -> None:
            if self.is_wanted(topic):
                wait_again()  # the next connection settles it
            else:
                give_up(_cancelled(topic))

        def give_up(error: CallError) -> None:
            for waiter in waiters:
                topic.readers.pop(waiter.subscription, None)
                fail(waiter.future, error)

        def wait_again() -> None:
            for waiter in waiters:
                waiter.subscription.wait()
            topic.waiting[:0] = waiters

        payload = start.payload() + grant_payload(grant)
        if grant is not None:
            grant.sent()
        self.send(Call("subscribe", topic.name, done, refused, lost), payload)

    def _refused(self, topic: Topic, error: CallError) -> None:
        """Those who asked have gone, with this error."""
        self._ask_soon(topic)
        if topic.live or topic.asked or topic.waiting or topic in self._recovery:
            return  # another answer decides
        if isinstance(error, CallTimeout) and self._exchange is not None:
            # The server may still come round to it: it must not deliver what nobody wants.

            def done(_: object) -> None:
                self._left(topic.name)

            self._exchange.send(Call("unsubscribe", topic.name, done, _ignore, _ignore))
        self._forget(topic)

    # For the recovery of what stood before: recovery.Owner

    def is_wanted(self, topic: Topic) -> bool:
        return self._topics.get(topic.name) is topic

    def recovered(self, topic: Topic, is_complete: bool) -> None:
        topic.live = True
        topic.covered = self._position.latest is not None
        if not is_complete:
            self._restart(topic)
        self._settle(topic)
        self._ask_soon(topic)

    def not_recovered(self, topic: Topic, error: CallError) -> None:
        waiting = {waiter.subscription for waiter in topic.waiting}
        for subscription in [each for each in topic.readers if each not in waiting]:
            subscription.end(error)
            del topic.readers[subscription]
        topic.granted = False
        topic.grant = None
        if topic.readers:
            self._settle(topic)
            self._ask_soon(topic)
        else:
            self._forget(topic)
        self._on_unsubscribed(error)

    def forget_log(self) -> None:
        self._position.forget()
        self._recovery.give_up_cursor()
        for topic in self._topics.values():
            topic.covered = False

    def send(self, call: Call, payload: bytes = b"") -> None:
        assert self._exchange is not None
        assert self._window is not None
        self._exchange.send(self._window.count(call), payload)


def _cancelled(topic: Topic) -> Cancelled:
    return Cancelled("subscribe", topic.name, "unsubscribed before the server had answered")


def _ignore(*_: object) -> None:
    pass
