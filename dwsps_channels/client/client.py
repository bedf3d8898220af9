"""The client: calls, subscriptions and one connection after another. docs/reference/python.md is the manual."""

import asyncio
import logging
import ssl as tls
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, overload

from dwsps_channels.client import messages
from dwsps_channels.client.address import Address, take_since
from dwsps_channels.client.authentication import Authentication
from dwsps_channels.client.backoff import Backoff
from dwsps_channels.client.calls import Call
from dwsps_channels.client.connection import (
    BROKEN,
    Connection,
    Token,
    checked_headers,
    open_connection,
)
from dwsps_channels.client.errors import (
    CallError,
    ClientClosed,
    ClientError,
    ConnectError,
    ConnectionClosed,
    InvalidCall,
    ServerError,
)
from dwsps_channels.client.exchange import Exchange
from dwsps_channels.client.grant import Grant
from dwsps_channels.client.messages import Ack, Incoming, InvalidFrame, Message
from dwsps_channels.client.publishes import Publishes
from dwsps_channels.client.subscription import OnReset, Start, Subscription
from dwsps_channels.client.subscriptions import Subscriptions
from dwsps_channels.client.text_source import TextSource
from dwsps_channels.client.window import Window
from dwsps_channels.protocol.messages import Action
from dwsps_channels.protocol.text import printable

logger = logging.getLogger("dwsps_channels.client")

State = Literal["connecting", "open", "reconnecting", "closed"]
Callback = Callable[[Message], object]

# After so many frames in a row those who read messages get a turn: a burst is not to overflow their queues.
BURST = 64

NORMAL = 1000  # RFC 6455, section 7.4.1


class Client:
    """A client of a dwsps server. After a lost connection it reconnects and recovers what it missed.

    ::

        async with Client("ws://127.0.0.1:8000/ws/pubsub/") as client:
            await client.publish("news.uk", {"headline": "Rain"})
            async for message in client.subscribe("news"):
                print(message.topic, message.message)

    Without a connection, calls wait for one. A client belongs to the event loop in which it connected.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        token_in: Literal["header", "frame"] = "header",
        headers: Mapping[str, str] | None = None,
        ssl: tls.SSLContext | None = None,
        timeout: float = 10.0,
        heartbeat: float = 20.0,
        heartbeat_timeout: float = 20.0,
        min_delay: float = 0.5,
        max_delay: float = 20.0,
        queue_size: int = 1000,
        reader_messages: int = 10_000,
        reader_bytes: int = 16 * 1024 * 1024,
        on_state: Callable[[State], object] | None = None,
        on_reset: Callable[[list[str]], object] | None = None,
        on_unsubscribed: Callable[[CallError], object] | None = None,
    ) -> None:
        """
        Args:
            url: ``ws://`` or ``wss://``; ``http`` and ``https`` mean the same. A cursor as its ``since`` is not sent:
                subscriptions that are made before the client is open for the first time start from it.
            token: says to the server who the client is. A function is called for each connection, and again before the
                token expires. An empty one stands for none.
            token_in: ``header`` sends the token as ``Authorization: Bearer …``, ``frame`` as the first frame.
            headers: additional headers for the handshake.
            ssl: the ``SSLContext`` for ``wss``; by default the system's certificates are trusted.
            timeout: seconds that the server may take to accept a connection, or to answer a call that was sent.
            heartbeat: seconds between two pings; ``heartbeat_timeout`` is how long the server may be silent after one.
            min_delay: ceiling of the first delay before reconnecting, in seconds; ``max_delay`` is that of the last.
            queue_size: how many publishes may wait for a connection.
            reader_messages: how many messages may wait for one reader, and ``reader_bytes`` of JSON. Beyond it the
                oldest are dropped.
            on_state: called with each new state, in the event loop; it must return at once.
            on_reset: called in the same way, with the list of topics of which messages are missing.
            on_unsubscribed: called in the same way, with the error (``topic``, ``code``, ``reason``) of each topic of
                which the server has ended the subscription.

        Raises:
            ValueError: the URL or a header cannot be one, an option is negative, or ``token_in`` is neither of the two.
        """
        url, page_cursor = take_since(url)
        address = Address.parse(url)
        numbers = {
            "timeout": timeout,
            "heartbeat": heartbeat,
            "heartbeat_timeout": heartbeat_timeout,
            "min_delay": min_delay,
            "max_delay": max_delay,
            "queue_size": queue_size,
            "reader_messages": reader_messages,
            "reader_bytes": reader_bytes,
        }
        for name, number in numbers.items():
            if not number >= 0:
                raise ValueError(f"{name} must be a number, and not negative")
        if token_in not in ("header", "frame"):
            raise ValueError("token_in is 'header' or 'frame'")
        self.url = address.shown
        """The server's address, without its query."""
        self._open = partial(
            open_connection,
            address,
            headers=checked_headers(headers),
            ssl=ssl,
            open_timeout=timeout,
            heartbeat=heartbeat,
            heartbeat_timeout=heartbeat_timeout,
        )
        self._timeout = timeout
        self._reader_messages = reader_messages
        self._reader_bytes = reader_bytes
        self._on_state = on_state
        self._on_reset = on_reset
        self._on_unsubscribed = on_unsubscribed
        self._backoff = Backoff(min_delay, max_delay, renews_token=callable(token))
        self._authentication = Authentication(
            token,
            address,
            in_frame=token_in == "frame",
            timeout=timeout,
            delay=self._backoff.pause,
        )
        self._state: State = "connecting"
        self._changed = asyncio.Event()  # replaced at each change of state
        self._last_error: ClientError | None = None
        self._task: asyncio.Task[None] | None = None
        self._callbacks: set[asyncio.Task[None]] = set()
        self._subscriptions = Subscriptions(
            partial(self._check, "subscribe"),
            self._send_more,
            self._backoff.jitter,
            self._tell_reset,
            self._tell_unsubscribed,
            page_cursor,
            timeout,
        )
        self._publishes = Publishes(queue_size)
        self._told = ""  # the last trouble that the log was told of, since it was open
        self._closed: ConnectionClosed | None = None
        self._exchange: Exchange | None = None  # where there is a connection
        self._window: Window | None = None  # where the server knows who the client is, too
        self._farewell = ""  # what the server said before it closed the last one

    def __repr__(self) -> str:
        return f"<Client {self.url} {self._state}>"

    @property
    def state(self) -> State:
        """``connecting`` at first; ``open``; ``reconnecting`` from a loss to the next ``open``; ``closed`` for good."""
        return self._state

    @property
    def last_error(self) -> ClientError | None:
        """The reason of the last failed or lost connection; ``None``: all went well."""
        return self._last_error

    @property
    def latency(self) -> float | None:
        """The round trip of the last heartbeat, in seconds; ``None`` before the first."""
        return None if self._exchange is None else self._exchange.connection.latency

    @property
    def subscriptions(self) -> list[str]:
        """The topics subscribed to, including those that wait for a connection or an ack."""
        return self._subscriptions.topics

    @property
    def cursor(self) -> str:
        """The place in the server's log up to which all messages came in; empty: not known.

        Some may wait for their readers still. Another client's subscription ``since`` this cursor misses nothing.
        """
        return self._subscriptions.cursor

    def keep_page_cursor(self) -> None:
        """Have all subscriptions of the first connection start from the URL's cursor. Call it before ``connect``."""
        self._subscriptions.keep_page_cursor()

    # Its life

    def connect(self) -> None:
        """Begin to connect; return at once. ``async with`` does it, and closes at the end of the block.

        Raises:
            RuntimeError: it did so before, or no event loop runs.
        """
        if self._task is not None or self._closed is not None:
            raise RuntimeError("a client connects once: make another")
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"dwsps {self.url}")

    async def wait_open(self) -> None:
        """Wait for the state ``open``: connected, and each earlier subscription was accepted, or refused for good.

        Raises:
            ConnectionClosed: it is closed for good.
        """
        while self._state != "open":
            if self._closed is not None:
                raise self._closed
            await self._changed.wait()

    async def close(self) -> None:
        """Close for good. Calls without an answer raise ``ClientClosed``; readers get the waiting messages and end."""
        if self._closed is None:
            self._finish("the client was closed", NORMAL)
        current = asyncio.current_task()
        # A callback may close its client.
        tasks = {task for task in (self._task, *self._callbacks) if task not in (None, current)}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def __aenter__(self) -> Self:
        self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # Calls

    async def publish(self, topic: str, message: Any) -> Ack:
        """Publish a JSON value, encoded now; return when the server has taken it. Without a connection, wait for one.

        If the connection breaks before the answer, it is sent again with the same key, so it is published once.

        Raises:
            InvalidCall: no text for a topic, or no JSON value. Nothing was sent.
            QueueFull: too many publishes wait already. Nothing was sent.
            ServerError: the server refused.
            ConnectionLost: the connection broke before the ack, and the server has no log, or there was no other
                connection for four and a half minutes: it may have arrived, or not.
            CallTimeout: no answer in time: the same.
            ClientClosed: the client is closed, or was before the ack.
        """
        self._check("publish", topic)
        publishes, publish = self._publishes, self._publishes.make(topic, message)
        has_to_wait = publishes.are_waiting or self._subscriptions.has_unsent
        if self._exchange is None or self._window is None or has_to_wait:
            publishes.wait(publish)
        else:
            self._exchange.send(publishes.call(publish), publish.payload)
        try:
            return await publish.future
        except asyncio.CancelledError:
            publishes.withdraw(publish)
            raise

    @overload
    def subscribe(
        self,
        topic: str,
        callback: None = None,
        *,
        since: str | None = None,
        last: int | None = None,
        grant: TextSource | None = None,
        on_reset: OnReset | None = None,
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        topic: str,
        callback: Callback,
        *,
        since: str | None = None,
        last: int | None = None,
        grant: TextSource | None = None,
        on_reset: OnReset | None = None,
    ) -> Coroutine[Any, Any, Subscription]: ...
    def subscribe(
        self,
        topic: str,
        callback: Callback | None = None,
        *,
        since: str | None = None,
        last: int | None = None,
        grant: TextSource | None = None,
        on_reset: OnReset | None = None,
    ) -> Subscription | Coroutine[Any, Any, Subscription]:
        """Subscribe to a topic and its sub-topics, across reconnections.

        Without a callback, use the result in ``async with`` or ``async for``, which subscribe. With a callback, await the
        result: that subscribes, and returns the subscription. ``callback``, a function or a coroutine function, then
        gets each message, one after the other, until ``unsubscribe``. Its exceptions are logged and stop nothing.

        Args:
            since: a cursor: begin with what was published after it.
            last: begin with this many of the newest messages that the server keeps.
            grant: the server's signed permission for the topic. A function or coroutine function, without arguments, is
                called each time that the client sends the grant, because a grant expires.
            on_reset: a function or coroutine function, without arguments. The reader calls it before the next message
                if messages are missing before that one: load your state again.

        Raises:
            InvalidCall: no text for a topic, ``since`` and ``last`` together, or one that cannot be.
            ServerError, CallTimeout: when it is awaited: the server refused, or did not answer.
            NoGrant: the grant function failed.
            Cancelled: the subscription was ended before the server had answered.
            ClientClosed: the client is closed.
        """
        subscription = Subscription(
            self._subscriptions,
            topic,
            start=Start.checked(topic, since, last),
            grant=Grant.checked(topic, grant),
            on_reset=on_reset,
            max_messages=self._reader_messages,
            max_bytes=self._reader_bytes,
        )
        return subscription if callback is None else self._call_back(subscription, callback)

    async def _call_back(self, subscription: Subscription, callback: Callback) -> Subscription:
        if not callable(callback):
            raise TypeError("a callback is a function")
        await subscription.begin()
        task = asyncio.create_task(_log_errors(subscription, callback))
        self._callbacks.add(task)
        task.add_done_callback(self._callbacks.discard)
        return subscription

    async def unsubscribe(self, topic: str) -> None:
        """End all subscriptions to a topic; return when the server has acknowledged. Those to sub-topics stay.

        Raises:
            CallError: the server did not acknowledge. It may go on sending; nobody here gets it.
        """
        self._check("unsubscribe", topic)
        await self._subscriptions.end(topic)

    # The connection

    async def _run(self) -> None:
        """One connection after another, until the client is closed."""
        try:
            while (delay := await self._connect_once()) is not None:
                self._set_state("reconnecting")
                await asyncio.sleep(delay)
        except Exception:
            # A defect of ours: told, rather than that all calls wait for ever.
            logger.exception("the client of %s failed", self.url)
            self._finish("the client failed, its log says why", BROKEN)

    async def _connect_once(self) -> float | None:
        """Connect and stay connected; return the delay before the next attempt. ``None``: do not try again."""
        try:
            token = await self._authentication.prepare()
            async with self._open(token=token) as connection:
                self._backoff.opened()
                return await self._serve(connection)
        except ConnectError as error:
            self._tell(error)
            return self._backoff.delay()

    def _tell(self, error: ClientError) -> None:
        self._last_error = error
        words = error.problem if isinstance(error, ConnectError) else str(error)
        # Once in so many words: an outage makes one line, not one for each attempt.
        level = logging.DEBUG if words == self._told else logging.WARNING
        self._told = words
        logger.log(level, "no connection to %s: %s", self.url, words)

    async def _serve(self, connection: Connection) -> float | None:
        """Handle what comes in until the connection is gone; return as ``_connect_once`` does."""
        self._farewell = ""
        self._exchange = exchange = Exchange(connection, self._timeout)
        exchange.run(exchange.write())
        try:
            self._authentication.begin(exchange, partial(self._authenticated, exchange))
            handled = 0
            async for data in connection:
                exchange.heard()
                self._receive(exchange, data)
                handled += 1
                if handled % BURST == 0:
                    await asyncio.sleep(0)
        except ConnectionClosed as closed:
            # Some servers drop the reason from the close.
            reason = closed.reason or self._farewell
            told = ConnectionClosed(closed.code, reason, by_server=closed.by_server)
            self._tell(told)
            delay = self._backoff.delay(told.code)
            self._lost(told, is_final=delay is None)
            return delay
        finally:
            await exchange.stop()
        raise AssertionError("the end of a connection is an exception")

    def _authenticated(self, exchange: Exchange) -> None:
        """Go on where the last connection ended: the server knows who the client is."""
        self._window = Window(self._send_more, self._backoff.pause)
        self._subscriptions.connected(exchange, self._window, self._opened)
        self._send_more()

    def _send_more(self) -> None:
        """Send what waits: subscriptions first, and no more at once than the server takes."""
        while self._exchange is not None and self._window is not None and self._window.is_open:
            if self._subscriptions.has_unsent:
                self._subscriptions.send_next()
            elif (publish := self._publishes.take_next()) is not None:
                call = self._window.count(self._publishes.call(publish))
                self._exchange.send(call, publish.payload)
            else:
                return

    def _opened(self) -> None:
        if self._exchange is not None:
            logger.info("connected to %s", self.url)
            self._told = ""
            self._set_state("open")

    def _lost(self, closed: ConnectionClosed, *, is_final: bool) -> None:
        if is_final:
            why = f"the server closed the connection for good: {closed.code} {closed.reason}"
            self._finish(why.rstrip(), closed.code)
        else:
            for call in self._release():
                call.lost(closed.reason)
            self._publishes.disconnected()

    def _release(self) -> list[Call]:
        """Forget the connection; return the calls that were sent on it and are not answered."""
        exchange, self._exchange = self._exchange, None
        if self._window is not None:
            self._window.close()
            self._window = None
        self._subscriptions.disconnected()
        return [] if exchange is None else exchange.end()

    def _finish(self, why: str, code: int) -> None:
        """Close for good; NORMAL: by its user."""
        self._closed = ConnectionClosed(code, why)
        calls = self._release()
        self._subscriptions.close(why, is_error=code != NORMAL)
        for call in calls:
            call.fail(ClientClosed(call.action, call.topic, why))
        self._publishes.close(why)
        self._set_state("closed")

    def _set_state(self, state: State) -> None:
        if state == self._state or self._state == "closed":
            return
        self._state = state
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if self._on_state is not None:
            try:
                self._on_state(state)
            except Exception:
                logger.exception("on_state raised at %r", state)

    def _tell_reset(self, topics: list[str]) -> None:
        logger.info("messages of these topics may be missing: %s", printable(", ".join(topics)))
        if self._on_reset is not None:
            try:
                self._on_reset(topics)
            except Exception:
                logger.exception("on_reset raised")

    def _tell_unsubscribed(self, error: CallError) -> None:
        if self._on_unsubscribed is not None:
            try:
                self._on_unsubscribed(error)
            except Exception:
                logger.exception("on_unsubscribed raised")

    # Requests

    def _check(self, action: Action, topic: Any) -> None:
        if self._closed is not None:
            raise ClientClosed(action, topic, self._closed.reason)
        if self._task is None:
            raise RuntimeError("the client has not been told to connect: use 'async with'")
        # The rest of the grammar is the server's; but dwsps 1.0.1 would die of these.
        if not isinstance(topic, str) or not topic:
            raise InvalidCall(action, topic, "invalid_topic", "a topic is a text, and not empty")
        try:
            topic.encode()
        except UnicodeEncodeError:
            raise InvalidCall(
                action, topic, "invalid_topic", "a topic has no lone surrogates"
            ) from None

    # Frames

    def _receive(self, exchange: Exchange, data: bytes) -> None:
        try:
            frame = messages.decode(data)
            if frame.type == "publish":
                self._subscriptions.deliver(frame)
        except InvalidFrame as error:
            logger.error("the server at %s sent something that was ignored: %s", self.url, error)
            return
        if frame.type == "ack":
            if frame.action == "publish":
                self._publishes.server_has_log = frame.place is not None
            elif frame.action != "authenticate":
                self._publishes.server_has_log = isinstance(frame.cursor, str)
                self._subscriptions.learn(frame.cursor)
            call = exchange.answered(frame)
            if call is not None:
                call.done(frame)
        elif frame.type == "reset":
            self._subscriptions.reset(frame.cursor)
        elif frame.type == "error":
            self._complain(exchange, frame)
        elif frame.type == "unsubscribed":
            self._unsubscribed(frame)
        elif frame.type == "expiring":
            seconds = frame.expires_in
            self._authentication.renew(exchange, seconds if isinstance(seconds, int) else 0)
        # Others are of a later protocol, and not for us.

    def _complain(self, exchange: Exchange, frame: Incoming) -> None:
        reason = frame.reason_text
        call = exchange.answered(frame)
        if call is not None:
            retryable = frame.retryable is True
            call.fail(ServerError(call.action, call.topic, frame.code, reason, retryable=retryable))
        elif frame.is_farewell:
            self._farewell = reason
            if frame.cursor is not None:
                self._subscriptions.learn(frame.cursor)
            logger.warning(
                "the server at %s says: %s: %s",
                self.url,
                printable(frame.code, 64),
                printable(reason),
            )

    def _unsubscribed(self, frame: Incoming) -> None:
        error = ServerError(
            "subscribe", frame.topic, frame.code, frame.reason_text, retryable=False
        )
        logger.warning("the server has ended a subscription: %s", error)
        self._subscriptions.unsubscribed(error)


async def _log_errors(subscription: Subscription, callback: Callback) -> None:
    # Why it ended was logged where it ended.
    with suppress(ClientError):
        await subscription.call(callback)
