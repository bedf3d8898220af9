"""The log in a process that serves."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from typing import Final

from dwsps_channels.core.recovery import wait_for_log
from dwsps_channels.exceptions import NoLog
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.reading.excerpt import Excerpt, excerpt
from dwsps_channels.reading.messages import History, HistoryQuery
from dwsps_channels.server.runtime import Runtime

# Seconds for this process to read as far in the log as the cursor that it was given.
CATCH_UP_TIMEOUT: Final = 0.5


class LocalLog:
    """The log as the node of this process has it. See ``ReadableLog``."""

    def __init__(self, server: Runtime) -> None:
        self._server = server

    def cursor(self, timeout: float) -> str:
        """See ``ReadableLog.cursor``. Does not wait: any thread may read it."""
        return self._server.node.cursor

    async def acursor(self, timeout: float) -> str:
        """See ``ReadableLog.acursor``."""
        return self._server.node.cursor

    def read(self, query: HistoryQuery, timeout: float) -> History:
        """See ``ReadableLog.read``. Only the event loop may touch the tail; decoding is up to the caller's thread."""
        server = self._server
        if _running_loop() is server.loop:
            return self._take(query).history()
        taking = asyncio.run_coroutine_threadsafe(self._take_started(query), server.loop)
        try:
            found = taking.result(timeout)
        except TimeoutError:
            raise _too_late(timeout) from None
        finally:
            taking.cancel()  # no effect once it is done
        return found.history()

    async def aread(self, query: HistoryQuery, timeout: float) -> History:
        """See ``ReadableLog.aread``."""
        server = self._server
        taking: Awaitable[Excerpt]
        if asyncio.get_running_loop() is server.loop:
            taking = self._take_started(query)
        else:
            taking = asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(self._take_started(query), server.loop)
            )
        try:
            async with asyncio.timeout(timeout):
                return (await taking).history()
        except TimeoutError:
            raise _too_late(timeout) from None

    async def _take_started(self, query: HistoryQuery) -> Excerpt:
        # The first request starts it; those that come at the same time may get here before it has started.
        server = self._server
        await server.started()
        if query.since is not None and server.backend.joins_processes:
            # Another process, which is ahead of this one, may have given the cursor; or nobody has.
            is_behind = partial(server.node.is_behind, query.since)
            with suppress(TimeoutError):
                async with asyncio.timeout(CATCH_UP_TIMEOUT):
                    await wait_for_log(is_behind, asyncio.sleep)
        return self._take(query)

    def _take(self, query: HistoryQuery) -> Excerpt:
        server = self._server
        if not server.node.epoch:
            if not server.backend.keeps_log:
                raise NoLog(type(server.backend).__name__)
            raise Unavailable("this process has not read the log yet")
        return excerpt(server.node, query)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _too_late(timeout: float) -> Unavailable:
    return Unavailable(f"the log was not read within {timeout:g} s")
