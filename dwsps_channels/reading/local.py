"""The log in a process that serves."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from dwsps_channels.core.recovery import wait_while
from dwsps_channels.exceptions import NoLog
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.reading.excerpt import Excerpt, excerpt
from dwsps_channels.reading.messages import History, HistoryQuery
from dwsps_channels.server.runtime import Runtime

ResultT = TypeVar("ResultT")
Call = Callable[[], Coroutine[Any, Any, ResultT]]

# Seconds for this process to read as far in the log as the cursor that it was given.
CATCH_UP_TIMEOUT: Final = 0.5


class LocalLog:
    """The log as the node of this process has it. See ``ReadableLog``."""

    def __init__(self, server: Runtime) -> None:
        self._server = server

    def cursor(self, timeout: float) -> str:
        """See ``ReadableLog.cursor``. Any thread may read it; it waits only while the server starts."""
        if self._has_begun or _running_loop() is self._server.loop:
            return self._end()
        return self._call(self._end_started, timeout)

    async def acursor(self, timeout: float) -> str:
        """See ``ReadableLog.acursor``."""
        return self._end() if self._has_begun else await self._acall(self._end_started, timeout)

    def read(self, query: HistoryQuery, timeout: float) -> History:
        """See ``ReadableLog.read``. Only the event loop may touch the tail; decoding is up to the caller's thread."""
        if _running_loop() is self._server.loop:
            return self._take(query).history()
        return self._call(partial(self._take_started, query), timeout).history()

    async def aread(self, query: HistoryQuery, timeout: float) -> History:
        """See ``ReadableLog.aread``."""
        return (await self._acall(partial(self._take_started, query), timeout)).history()

    def _call(self, function: Call[ResultT], timeout: float) -> ResultT:
        """Call on the event loop that serves, from another thread."""
        calling = asyncio.run_coroutine_threadsafe(function(), self._server.loop)
        try:
            return calling.result(timeout)
        except TimeoutError:
            raise _too_late(timeout) from None
        finally:
            calling.cancel()  # no effect once it is done

    async def _acall(self, function: Call[ResultT], timeout: float) -> ResultT:
        """Do the same from asynchronous code, on that event loop or another."""
        calling: Awaitable[ResultT]
        if asyncio.get_running_loop() is self._server.loop:
            calling = function()
        else:
            calling = asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(function(), self._server.loop)
            )
        try:
            async with asyncio.timeout(timeout):
                return await calling
        except TimeoutError:
            raise _too_late(timeout) from None

    @property
    def _has_begun(self) -> bool:
        return bool(self._server.node.epoch) or not self._server.backend.keeps_log

    async def _end_started(self) -> str:
        # Pages are made while the server starts, and are to have a cursor. If it cannot start, they are served without.
        with suppress(Exception):
            await self._server.started()
        return self._end()

    def _end(self) -> str:
        if not self._has_begun:
            raise _unread()
        return self._server.node.cursor

    async def _take_started(self, query: HistoryQuery) -> Excerpt:
        # The first request starts it; those that come at the same time may get here before it has started.
        server = self._server
        await server.started()
        if query.since is not None and server.backend.joins_processes:
            # Another process, which is ahead of this one, may have given the cursor; or nobody has.
            is_behind = partial(server.node.is_behind, query.since)
            with suppress(TimeoutError):
                async with asyncio.timeout(CATCH_UP_TIMEOUT):
                    await wait_while(is_behind, asyncio.sleep)
        return self._take(query)

    def _take(self, query: HistoryQuery) -> Excerpt:
        server = self._server
        if not server.node.epoch:
            if not server.backend.keeps_log:
                raise NoLog(type(server.backend).__name__)
            raise _unread()
        return excerpt(server.node, query)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _unread() -> Unavailable:
    return Unavailable("this process has not read the log yet")


def _too_late(timeout: float) -> Unavailable:
    return Unavailable(f"the log was not read within {timeout:g} s")
