"""Threads for what may block: look-ups of a handshake, plain authenticators and plain policies.

``sync_to_async`` alone has one thread for a whole process: a slow policy there keeps everybody from logging in, and the
look-ups of clients that have given up keep those that have not.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from threading import Lock, Semaphore
from typing import Any, Final, ParamSpec, TypeVar

from asgiref.sync import sync_to_async

from dwsps_channels.capturing import is_under_test
from dwsps_channels.conf import conf
from dwsps_channels.threads.database import close_between_calls, close_old_connections

logger = logging.getLogger("dwsps_channels.threads")

P = ParamSpec("P")
T = TypeVar("T")

# How long a look-up waits for a thread. Daphne gives up on a handshake after 5 s.
MAX_WAIT: Final = 3.0

# How long a thread without a call keeps its database connections. Of many look-ups the next one is often made as soon as
# the event loop has had the answer to the last: each would connect to the database again.
LINGER: Final = 0.1


class Busy(Exception):
    """No thread was free for ``MAX_WAIT`` seconds; the call was not made."""


async def look_up(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function``, which reads the database for a handshake, in one of ``LOOKUP_THREADS``.

    Cancel it when the client has gone: if it has not begun by then, it is not made. (In a test everything stays in the
    thread of ``sync_to_async``: it has the test's transaction, which no other thread sees.)

    Raises:
        Busy: too many wait.
        Exception: what ``function`` raises.
    """
    call = partial(function, *args, **kwargs)
    return await (in_djangos_thread(call) if is_under_test() else _lookups().run(call, MAX_WAIT))


async def ask(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function``, a plain method of a policy, in one of ``POLICY_THREADS``."""
    call = partial(function, *args, **kwargs)
    return await (in_djangos_thread(call) if is_under_test() else _questions().run(call))


async def check_token(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function``, a plain authenticator, in one of as many threads as ``LOOKUP_THREADS``.

    These threads are for tokens alone, so that an authenticator that hangs delays no look-up of a session.
    """
    call = partial(function, *args, **kwargs)
    return await (in_djangos_thread(call) if is_under_test() else _tokens().run(call))


async def in_background(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function``, which writes what nobody waits for, in a thread of its own.

    So a database that is slow, or locked, delays neither look-ups nor the project's own code.
    """
    call = partial(function, *args, **kwargs)
    return await (in_djangos_thread(call) if is_under_test() else _background().run(call))


async def in_djangos_thread(call: Callable[[], T]) -> T:
    """Call it in the thread that ``sync_to_async`` uses, with its database connections cared for."""

    def careful() -> T:
        close_old_connections()
        try:
            return call()
        finally:
            close_old_connections()

    return await sync_to_async(careful)()


class Threads(Executor):
    """A few threads that share one queue. A call that is cancelled before it begins is not made.

    A thread keeps its database connections for as long as calls follow each other, and no longer than CONN_MAX_AGE says
    after that.
    """

    def __init__(self, name: str, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=f"dwsps-{name}")
        self._lock = Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        # The threads that work or linger, those of them that linger and that no call has woken, and what wakes them.
        self._active = 0
        self._lingering = 0
        self._wake = Semaphore(0)

    async def run(self, call: Callable[[], T], max_wait: float | None = None) -> T:
        """Call ``call`` in one of the threads, in the order of the calls.

        Raises:
            Busy: it had not begun after ``max_wait`` seconds.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(max_wait) as waiting:

                def begin() -> T:
                    loop.call_soon_threadsafe(_lift, waiting)
                    return call()

                run = call if max_wait is None else begin
                # By asgiref, so that ``async_to_sync`` within the call finds this loop.
                in_thread: Any = partial(sync_to_async, thread_sensitive=False, executor=self)
                answer: T = await in_thread(run)()
                return answer
        except TimeoutError:
            if waiting.expired():
                raise Busy(f"no thread was free for {max_wait:g} s") from None
            raise

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See ``concurrent.futures.Executor``."""
        future: Future[T] = Future()
        with self._lock:
            # Those that gave up, while all threads hang on a database: else they would pile up.
            while self._waiting and self._waiting[0][0].cancelled():
                self._waiting.popleft()
            self._waiting.append((future, partial(function, *args, **kwargs)))
            wakes = self._lingering > 0
            if wakes:
                self._lingering -= 1
                self._wake.release()
            starts = not wakes and self._active < self._count
            self._active += starts
        if starts:
            self._pool.submit(self._work)
        return future

    def drop_waiting(self) -> None:
        """Cancel what has not begun: a process that ends would first do all of it."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            future.cancel()

    def _work(self) -> None:
        _tidy(close_old_connections)
        while (next_call := self._next()) is not None:
            future, call = next_call
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
                _tidy(close_between_calls)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._lingering += 1
        is_woken = self._wake.acquire(timeout=LINGER)
        with self._lock:
            # A call may have come just now.
            if not is_woken and not self._wake.acquire(blocking=False):
                self._lingering -= 1
            if self._waiting:
                return self._waiting.popleft()
        # Before it counts as idle: another call starts a thread, perhaps this one again.
        _tidy(close_old_connections)
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._active -= 1
            return None


def _tidy(close: Callable[[], None]) -> None:
    try:
        close()
    except Exception:
        # A thread is not lost for it.
        logger.exception("a database connection could not be closed")


def _lift(waiting: asyncio.Timeout) -> None:
    with suppress(RuntimeError):  # it has expired, or the call was cancelled
        waiting.reschedule(None)


@cache
def _lookups() -> Threads:
    return Threads("lookup", conf.LOOKUP_THREADS)


@cache
def _tokens() -> Threads:
    return Threads("token", conf.LOOKUP_THREADS)


@cache
def _questions() -> Threads:
    return Threads("policy", conf.POLICY_THREADS)


@cache
def _background() -> Threads:
    return Threads("background", 1)


def drop_waiting() -> None:
    """Cancel whatever waits for a thread: the process ends."""
    for threads in (_lookups, _tokens, _questions):
        if threads.cache_info().currsize:
            threads().drop_waiting()
