"""The log of a server that runs in another process."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from dwsps_channels.broker.backends import BrokerBackend
from dwsps_channels.client.address import Address
from dwsps_channels.exceptions import NoLog
from dwsps_channels.reading.broker import connect
from dwsps_channels.reading.messages import History, HistoryQuery
from dwsps_channels.remote.pool import ConnectionPool, PerServer
from dwsps_channels.threads.database import close_old_connections

ResultT = TypeVar("ResultT")


class LogConnection(Protocol):
    """A connection to a server's log, for one caller at a time: see ``remote.pool.Connection``.

    A deadline is a time of ``time.monotonic``. All methods raise ``TimeoutError`` not before it, ``OSError`` if the
    connection is of no more use, and ``Unavailable`` if the server refuses.
    """

    def cursor(self, deadline: float) -> str:
        """Return the end of the log; empty: the server keeps none."""
        ...

    def read(self, query: HistoryQuery, deadline: float) -> History | None:
        """Read; ``None``: the server keeps no log."""
        ...

    def close(self) -> None:
        """End the connection, without waiting for anybody."""


class RemoteLog:
    """Reads over pools of connections. See ``ReadableLog``."""

    def __init__(self, make: Callable[[], LogConnection], url: str | None, broker: str) -> None:
        """``url`` is the server's websocket, if that is the way; ``broker`` its broker's class, if known. For messages."""
        # Apart, each with its circuit breaker: a page waits shortly for the cursor, and a long history takes its time.
        # One that is late is not to fail the other.
        self._cursors = ConnectionPool(make, url)
        self._readers = ConnectionPool(make, url)
        self._broker = broker

    def cursor(self, timeout: float) -> str:
        """See ``ReadableLog.cursor``."""
        return self._cursors.call(lambda connection, deadline: connection.cursor(deadline), timeout)

    async def acursor(self, timeout: float) -> str:
        """See ``ReadableLog.acursor``."""
        return await asyncio.to_thread(_in_thread, partial(self.cursor, timeout))

    def read(self, query: HistoryQuery, timeout: float) -> History:
        """See ``ReadableLog.read``."""
        found = self._readers.call(
            lambda connection, deadline: connection.read(query, deadline), timeout
        )
        if found is None:
            raise NoLog(self._broker)
        return found

    async def aread(self, query: HistoryQuery, timeout: float) -> History:
        """See ``ReadableLog.aread``."""
        return await asyncio.to_thread(_in_thread, partial(self.read, query, timeout))

    def close(self) -> None:
        """End the connections that nobody is using."""
        self._cursors.close()
        self._readers.close()


def _in_thread(read: Callable[[], ResultT]) -> ResultT:
    # Nothing else closes the database connections of the event loop's threads.
    try:
        return read()
    finally:
        close_old_connections()


def _make_log(backend: BrokerBackend, url: str) -> RemoteLog:
    if backend.joins_processes or backend.make_reader() is not None:
        return RemoteLog(partial(connect, backend), None, type(backend).__name__)
    # Not at the top: models are needed only there.
    from dwsps_channels.reading.websocket import WebSocketLog

    return RemoteLog(partial(WebSocketLog, url), Address.parse(url).shown, "")


_logs = PerServer(_make_log)


def remote_log(backend: BrokerBackend, url: str) -> RemoteLog:
    """Return the log of the server that this process belongs to: from the broker, else from the websocket at ``url``."""
    return _logs.get(backend, url)
