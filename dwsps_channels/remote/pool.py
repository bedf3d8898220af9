"""A process's connections to the server: kept, bounded, and given up quickly while the server is away."""

import atexit
import os
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, Generic, Protocol, TypeVar

from django.core.signals import setting_changed

from dwsps_channels.broker.backends import BrokerBackend
from dwsps_channels.exceptions import NotServing
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.remote.breaker import CircuitBreaker

# How long nobody tries after a failure.
FAILURE_PAUSE: Final = 1.0

# Connections that are kept for the next callers: as many as a server has threads, most of the time.
MAX_IDLE: Final = 16


class Connection(Protocol):
    """A connection to the server, for one caller at a time. It blocks, and needs neither an event loop nor a thread."""

    def close(self) -> None:
        """End the connection, without waiting for anybody."""


ConnectionT = TypeVar("ConnectionT", bound=Connection)
ResultT = TypeVar("ResultT")


def _ignore(problem: str) -> None:
    pass


class ConnectionPool(Generic[ConnectionT]):
    """As many connections as there are callers at a time, kept for the next ones. For any number of threads.

    No caller waits for another. While the server cannot be reached, all but one fail at once.
    """

    def __init__(
        self,
        make: Callable[[], ConnectionT],
        url: str | None,
    ) -> None:
        """``url`` is the server's websocket, if that is the way; for messages."""
        self._make = make
        self._url = url
        self._was_there = False
        self._problem = ""
        self._breaker = CircuitBreaker(FAILURE_PAUSE)
        # The one that was used last is taken first. A deque's ends need no lock.
        self._idle: deque[ConnectionT] = deque()

    def call(
        self,
        request: Callable[[ConnectionT, float], ResultT],
        timeout: float,
        on_failure: Callable[[str], object] = _ignore,
    ) -> ResultT:
        """Return what ``request`` returns, which gets a connection and a deadline: a time of ``time.monotonic``.

        It raises ``Unavailable`` for a refusal of the server's, and ``OSError`` if the connection is of no more use.
        ``on_failure`` gets the problem of a call that fails over these.

        Raises:
            NotServing: there is no server, and has been none.
            Unavailable: the server refused, was not reached, or did not answer within ``timeout`` seconds.
        """
        deadline = monotonic() + timeout
        if not self._breaker.allows(timeout):
            raise self._failed(self._problem, on_failure)
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._make()
        try:
            result = request(connection, deadline)
        except Unavailable as error:
            self._succeed(connection)
            on_failure(error.problem)
            raise
        except OSError as error:
            connection.close()
            timed_out = isinstance(error, TimeoutError)
            self._problem = f"no answer within {timeout:g} s" if timed_out else str(error)
            self._breaker.fail()
            self.close()  # the others lead to the same
            raise self._failed(self._problem, on_failure) from error
        except BaseException:
            connection.close()  # nobody knows what it was doing
            raise
        self._succeed(connection)
        return result

    def _succeed(self, connection: ConnectionT) -> None:
        self._was_there = True
        self._breaker.succeed()
        if len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def _failed(
        self, problem: str, on_failure: Callable[[str], object]
    ) -> NotServing | Unavailable:
        on_failure(problem)
        if self._url is not None and not self._was_there:
            return NotServing(self._url, problem)
        return Unavailable(f"the server cannot be reached: {problem}")

    def close(self) -> None:
        """End the connections that nobody is using."""
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return


class PerServer(Generic[ConnectionT]):
    """A process's means to reach each server: one for each process, broker and URL."""

    def __init__(self, make: Callable[[BrokerBackend, str], ConnectionT]) -> None:
        self._make = make
        # What a fork brought along stays, unused: to close it would be to end connections that the parent goes on using.
        self._made: dict[tuple[int, type[BrokerBackend], str, str], ConnectionT] = {}
        atexit.register(self._close)
        setting_changed.connect(self._begin_again)

    def get(self, backend: BrokerBackend, url: str) -> ConnectionT:
        """Return what leads to the server of ``backend``, whose websocket is at ``url``."""
        # As text: options with a list, say, could be no key.
        key = (os.getpid(), type(backend), repr(backend.options), url)
        made = self._made.get(key)
        return self._made.setdefault(key, self._make(backend, url)) if made is None else made

    def _close(self) -> None:
        for key in list(self._made):
            if key[0] == os.getpid():
                self._made.pop(key).close()

    def _begin_again(self, *, setting: str, **kwargs: object) -> None:
        # Sent in tests only.
        if setting in ("CHANNEL_LAYERS", "DWSPS"):
            self._close()
