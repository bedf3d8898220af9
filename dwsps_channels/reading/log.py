"""The contract of a log that Django code reads."""

from typing import Protocol

from dwsps_channels.reading.messages import History, HistoryQuery


class ReadableLog(Protocol):
    """A way to the log. Implementations: of this process, of another one, and of tests."""

    def cursor(self, timeout: float) -> str:
        """Return the end of the log, from synchronous code in any thread; empty: the server keeps no log.

        Raises:
            NotServing: there is no server, and has been none.
            Unavailable: the log could not be reached within ``timeout`` seconds.
        """
        ...

    async def acursor(self, timeout: float) -> str:
        """Return the same, from asynchronous code on any event loop. Raises as ``cursor``."""
        ...

    def read(self, query: HistoryQuery, timeout: float) -> History:
        """Read from synchronous code, in any thread. Raises as ``cursor``, and NoLog."""
        ...

    async def aread(self, query: HistoryQuery, timeout: float) -> History:
        """Read from asynchronous code, on any event loop. Raises as ``read``."""
        ...
