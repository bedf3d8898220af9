"""The client for code without an event loop: the asyncio client, in a thread."""

import asyncio
import concurrent.futures
import os
import ssl as tls
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from dwsps_channels.client.client import Client, State
from dwsps_channels.client.connection import Token
from dwsps_channels.client.errors import CallTimeout, ClientClosed, ClientError
from dwsps_channels.client.messages import Ack, Message
from dwsps_channels.client.subscription import Item, Marker, Subscription
from dwsps_channels.client.text_source import TextSource

T = TypeVar("T")

# What calls that are cut off by the end have to say so to their threads.
CUT_OFF_GRACE: Final = 1.0


class BlockingClient:
    """A client of a dwsps server for threads. It connects at once, in a background thread, and reconnects by itself.

    ::

        with BlockingClient("ws://127.0.0.1:8000/ws/pubsub/") as client:
            client.publish("news.uk", {"headline": "Rain"})
            for message in client.subscribe("news"):
                print(message.topic, message.message)

    Any thread may use it, except one that runs an event loop, which it would block. A forked process cannot use it,
    because the thread stays in the parent: every call raises ``RuntimeError``. Create another client there.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        headers: Mapping[str, str] | None = None,
        ssl: tls.SSLContext | None = None,
        timeout: float = 10.0,
        on_state: Callable[[State], object] | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            url: as with ``Client``; but all subscriptions of the first connection start from a cursor as its ``since``.
            timeout: as with ``Client``; also how long a call may wait for a connection.
            on_state: as with ``Client``, but called in the client's thread; so are ``on_reset`` and ``on_unsubscribed``.
            options: the other options of ``Client``.

        Raises:
            ValueError: the URL or a header cannot be one, or an option is negative.
        """
        self._timeout = timeout
        self._client = Client(
            url,
            token=token,
            headers=headers,
            ssl=ssl,
            timeout=timeout,
            on_state=on_state,
            **options,
        )
        # It connects at once, so nobody could tell which subscription comes before it is open.
        self._client.keep_page_cursor()
        self._thread = _LoopThread(self._client)
        # Closes it when it is forgotten, and at the end of the program.
        self._finalizer = weakref.finalize(self, self._thread.finish)

    def __repr__(self) -> str:
        return f"<BlockingClient {self._client.url} {self._client.state}>"

    @property
    def state(self) -> State:
        """As ``Client.state``."""
        return self._client.state

    @property
    def last_error(self) -> ClientError | None:
        """As ``Client.last_error``."""
        return self._client.last_error

    @property
    def cursor(self) -> str:
        """As ``Client.cursor``."""
        return self._client.cursor

    def publish(self, topic: str, message: Any, *, timeout: float | None = None) -> Ack:
        """Publish a JSON value; return when the server has taken it.

        Args:
            timeout: seconds for the whole call, including the wait for a connection; by default the client's timeout for
                each of the two.

        Raises:
            CallTimeout: there was no connection in time, or no answer; the reason says which.
            CallError: as ``Client.publish`` does.
        """
        seconds = 2 * self._timeout if timeout is None else timeout
        try:
            return self._thread.run(self._publish(topic, message, seconds))
        except _Ended:
            raise ClientClosed("publish", topic, "the client was closed") from None

    async def _publish(self, topic: str, message: Any, seconds: float) -> Ack:
        try:
            async with asyncio.timeout(seconds):
                return await self._client.publish(topic, message)
        except CallTimeout:
            raise
        except TimeoutError:
            raise CallTimeout("publish", topic, self._why_late(seconds)) from None

    def subscribe(
        self,
        topic: str,
        *,
        since: str | None = None,
        last: int | None = None,
        grant: TextSource | None = None,
        on_reset: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> "BlockingSubscription":
        """Subscribe to a topic and its sub-topics; return when the server has acknowledged.

        Args:
            since: as with ``Client.subscribe``; so are ``last`` and ``grant``, whose function is called in the client's
                thread.
            on_reset: a function, called in the thread that reads, before the next message if messages are missing
                before that one: load your state again.
            timeout: iterating ends if no message comes for so many seconds; by default it never does.

        Raises:
            CallTimeout: there was no connection in time, or no answer.
            CallError: as ``Client.subscribe`` does.
        """
        subscription = self._client.subscribe(
            topic, since=since, last=last, grant=grant, on_reset=on_reset
        )
        try:
            self._thread.run(self._begin(subscription))
        except _Ended:
            raise ClientClosed("subscribe", topic, "the client was closed") from None
        return BlockingSubscription(self, self._thread, subscription, on_reset, timeout)

    async def _begin(self, subscription: Subscription) -> None:
        seconds = 2 * self._timeout
        try:
            async with asyncio.timeout(seconds):
                await subscription.begin()
        except CallTimeout:
            raise
        except TimeoutError:
            raise CallTimeout("subscribe", subscription.topic, self._why_late(seconds)) from None

    def _why_late(self, seconds: float) -> str:
        if self._client.state != "open" and self._client.last_error is not None:
            return f"no connection within {seconds:g} s: {self._client.last_error}"
        return f"not within {seconds:g} s"

    def close(self) -> None:
        """Close for good. Calls of other threads raise ``ClientClosed``; iterators end. Closing twice does no harm."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class BlockingSubscription:
    """The messages of a topic, for one reader. Made by ``BlockingClient.subscribe``.

    Iterate over it, or call ``get``. It ends with ``unsubscribe``, with its ``with`` block, or with its client.
    """

    def __init__(
        self,
        client: BlockingClient,
        thread: "_LoopThread",
        subscription: Subscription,
        on_reset: Callable[[], object] | None,
        timeout: float | None,
    ) -> None:
        self._client = (
            client  # who has a subscription has its client: it is not closed as forgotten
        )
        self._thread = thread
        self._subscription = subscription
        self._on_reset = on_reset
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<Blocking{repr(self._subscription)[1:]}"

    @property
    def topic(self) -> str:
        """The topic."""
        return self._subscription.topic

    @property
    def dropped(self) -> int:
        """Number of messages that were dropped because this reader was too slow."""
        return self._subscription.dropped

    def get(self, timeout: float | None = None) -> Message | None:
        """Wait for the next message. ``None``: the subscription has ended.

        If messages are missing before it, ``on_reset`` is called first.

        Raises:
            TimeoutError: none came within ``timeout`` seconds.
            ClientError: the server ended the subscription.
        """
        while True:
            try:
                item = self._thread.run(self._next(timeout))
            except _Ended:
                return None
            if item is not Marker.RESET:
                return item
            if self._on_reset is not None:
                self._on_reset()

    async def _next(self, timeout: float | None) -> Item | None:
        async with asyncio.timeout(timeout):
            return await self._subscription.next()

    def __iter__(self) -> Iterator[Message]:
        """Message after message, until the subscription ends or its timeout passes without one."""
        while True:
            try:
                message = self.get(self._timeout)
            except TimeoutError:
                return
            if message is None:
                return
            yield message

    def unsubscribe(self) -> None:
        """End it at once; return when the server has acknowledged, as ``Subscription.unsubscribe`` does."""
        with suppress(_Ended):
            self._thread.run(self._subscription.unsubscribe())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(_Ended):
            self._thread.run(self._leave())

    async def _leave(self) -> None:
        self._subscription.leave()


class _Ended(Exception):
    """The client was closed, and its thread is gone."""


class _LoopThread:
    """The thread in which a client lives. It does not know the ``BlockingClient``, which so can be forgotten."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pid = os.getpid()
        self._lock = (
            threading.Lock()
        )  # held while something is handed over: nothing comes after the end
        self._finished = False
        self._started: concurrent.futures.Future[asyncio.AbstractEventLoop]
        self._started = concurrent.futures.Future()
        # A daemon: a program that forgets to close it ends all the same, and closes it on its way out.
        self._thread = threading.Thread(target=self._main, name="dwsps-client", daemon=True)
        self._thread.start()
        self._loop = self._started.result()

    def _main(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)  # no loop could be made
            # Python 3.12 ends a loop's executor in a thread, and starts no thread once the program ends. All else is done.
            elif threading.main_thread().is_alive() or not isinstance(error, RuntimeError):
                raise

    async def _live(self) -> None:
        self._end = asyncio.Event()
        async with self._client:
            self._started.set_result(asyncio.get_running_loop())
            await self._end.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=CUT_OFF_GRACE)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Do it in the thread, and wait for what comes of it.

        Raises:
            _Ended: the thread is gone, or went meanwhile.
            RuntimeError: after a fork, or in the thread itself.
        """
        try:
            future = self._submit(coroutine)
        except BaseException:
            coroutine.close()
            raise
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise _Ended from None
        except BaseException:
            future.cancel()  # Ctrl-C: nobody waits any more
            raise

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        if os.getpid() != self._pid:
            raise RuntimeError("this client belongs to the process before the fork: make another")
        if threading.current_thread() is self._thread:
            raise RuntimeError("the client's own thread cannot wait for the client")
        with self._lock:
            if self._finished:
                raise _Ended
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def finish(self) -> None:
        """End the client and the thread; return when both are gone."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if not self._finished:
                self._finished = True
                self._loop.call_soon_threadsafe(self._end.set)
        # Whoever drops the last reference may be the thread itself: it ends once it is let go.
        if threading.current_thread() is not self._thread:
            self._thread.join()
