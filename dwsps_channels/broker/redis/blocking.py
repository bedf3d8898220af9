"""A connection to Redis that blocks, for code that has no event loop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final, TypeVar

from dwsps_channels.broker.redis.hosts import Host, blocking_pool, with_sentinels
from dwsps_channels.broker.redis.layout import SCRIPT, SCRIPT_NAME, Argument, Call
from dwsps_channels.broker.redis.server import RedisServer

# Seconds for a command that comes too late: a socket takes 0 for "do not wait", which is something else.
_SHORTEST_TIMEOUT: Final = 0.001

ResultT = TypeVar("ResultT")


class BlockingConnection:
    """One connection, for one caller at a time. It is opened by the first call; after an error by the next.

    Set ``deadline``, a time of ``time.monotonic``, before a call.
    """

    def __init__(self, host: Host) -> None:
        self.deadline = 0.0
        # Kept: a connection by way of sentinels refers to its pool only weakly.
        pool = blocking_pool(host)
        self._pools = with_sentinels(pool)
        for each in self._pools:
            each.connection_class = _with_deadline(each.connection_class, self._left)
        self._connection: Any = pool.make_connection()

    def _left(self) -> float:
        return self.deadline - monotonic()

    def open(self) -> bool:
        """Connect, and return ``True``; ``False``: it is connected, as far as can be known. Raises as ``call``."""
        if self._connection._sock is not None:
            return False
        with self._errors():
            self._connection.connect()
        return True

    def once_more_if_kept(self, calls: Callable[[], ResultT]) -> ResultT:
        """Return what ``calls`` returns; repeat it if the connection breaks that was kept from earlier calls.

        Such a connection is often found broken only when it is used: Redis was restarted, or closes what is idle. Raises
        as ``call``.
        """
        is_new = self.open()
        try:
            return calls()
        except ConnectionError:
            if is_new:
                raise
            return calls()

    def call(self, *command: Argument) -> Any:
        """Send a command and return the reply: bytes, integers, lists of them.

        Raises:
            TimeoutError: no reply before the deadline.
            ConnectionError: the connection broke, none came about, or Redis does not do it.
        """
        self.open()  # left to redis-py, it would ask no sentinel
        with self._errors():
            self._connection.send_command(*command)
            return self._connection.read_response(disable_decoding=True)

    def run(self, call: Call) -> Any:
        """Call the script. Raises as ``call``."""
        from redis.exceptions import NoScriptError

        try:
            return self.call("EVALSHA", SCRIPT_NAME, *call)
        except NoScriptError:
            return self.call("EVAL", SCRIPT, *call)

    def server(self) -> RedisServer:
        """Ask Redis what it is. Raises as ``call``, and as ``RedisServer.from_info``."""
        try:
            return RedisServer.from_info(self.call("INFO"))
        except ConnectionError:
            self.close()  # another Redis may have its address next time
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from redis import exceptions

        try:
            yield
        except exceptions.NoScriptError:
            raise
        except exceptions.ResponseError as error:
            # The connection is as good as before, except to a master that was made a replica: another one is now.
            if isinstance(error, exceptions.ReadOnlyError):
                self.close()
            raise ConnectionError(f"Redis: {error}") from error
        except exceptions.TimeoutError:
            self.close()
            raise TimeoutError from None
        except exceptions.RedisError as error:
            self.close()
            raise ConnectionError(f"Redis: {error}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection. The next call opens it again."""
        self._connection.disconnect()
        for pool in self._pools:
            pool.disconnect()


def _with_deadline(connection_class: type[Any], left: Callable[[], float]) -> type[Any]:
    """Return a class of redis-py's connections, with ``left()`` seconds for whatever takes time."""

    class Connection(connection_class):  # type: ignore[misc]
        @property
        def socket_timeout(self) -> float:
            return max(left(), _SHORTEST_TIMEOUT)

        @socket_timeout.setter
        def socket_timeout(self, value: float | None) -> None:
            pass

        socket_connect_timeout = socket_timeout

        def send_packed_command(self, *args: Any, **options: Any) -> None:
            if self._sock is not None:
                self._sock.settimeout(self.socket_timeout)
            super().send_packed_command(*args, **options)

    return Connection
