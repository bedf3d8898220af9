"""A connection to Redis on the event loop."""

import asyncio
import re
from typing import Any, Final

from redis.exceptions import NoScriptError, ResponseError

from dwsps_channels.broker.redis.layout import SCRIPT, SCRIPT_NAME, Argument, Call
from dwsps_channels.broker.redis.server import RedisServer
from dwsps_channels.protocol.text import printable

# Seconds for a connection to come about, and for a reply. Both are longer than Redis takes on a bad day.
CONNECT_TIMEOUT: Final = 3.0
REPLY_TIMEOUT: Final = 3.0

# Seconds between two looks at which Redis it is, over a connection that did not break.
IDENTIFY_INTERVAL: Final = 60.0

# Seconds for which Redis keeps a read waiting for something to read, and what the network may add to it.
READ_BLOCK: Final = 1.0
READ_GRACE: Final = 2.0

# The codes of errors before the first write of a script. Redis 6 has them in the text: "ERR Error running script …: -OOM …".
_REFUSAL: Final = re.compile(
    r"(?:^|-)(?:BUSY|LOADING|MASTERDOWN|MISCONF|NOPERM|NOREPLICAS|OOM|READONLY)\b"
)

# Classes for some of them, of which redis-py cuts off the code. Not all of its versions have all of them.
_REFUSALS: Final = {"NoPermissionError", "OutOfMemoryError", "ReadOnlyError"}


class Connection:
    """One connection, for one caller at a time. If a call fails or is cancelled, it is of no more use: close it."""

    def __init__(self, pool: Any) -> None:
        # Not taken from the pool, which would keep it.
        self._connection = pool.make_connection()

    async def open(self) -> None:
        """Connect.

        Raises:
            TimeoutError: not within ``CONNECT_TIMEOUT``.
            OSError, redis.RedisError: it cannot be reached, or does not let us in.
        """
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await self._connection.connect()

    async def call(self, *command: Argument, timeout: float = REPLY_TIMEOUT) -> Any:
        """Send a command and return the reply: bytes, integers, lists of them.

        Raises:
            TimeoutError: no reply within ``timeout``.
            OSError, redis.RedisError: the connection broke, or Redis does not do it.
        """
        async with asyncio.timeout(timeout):
            await self._connection.send_command(*command)
            return await self._connection.read_response(disable_decoding=True)

    async def run(self, call: Call) -> Any:
        """Call the script. Raises as ``call``."""
        try:
            return await self.call("EVALSHA", SCRIPT_NAME, *call)
        except NoScriptError:
            return await self.call("EVAL", SCRIPT, *call)

    async def server(self) -> RedisServer:
        """Ask Redis what it is. Raises as ``call``, and as ``RedisServer.from_info``."""
        return RedisServer.from_info(await self.call("INFO"))

    async def close(self) -> None:
        """Close it, without waiting for the other side."""
        await self._connection.disconnect(nowait=True)


def is_refusal(error: ResponseError) -> bool:
    """Return whether Redis did nothing of a call of the script: its memory or its disk is full, for example.

    Other errors may come in the middle of it, or from a proxy that has not waited for the reply.
    """
    return type(error).__name__ in _REFUSALS or _REFUSAL.search(str(error)) is not None


def problem_of(error: Exception) -> str:
    """Return why Redis cannot be used, in words, from an error of a ``Connection``."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return "it does not answer"
    return printable(str(error)).removesuffix(".") or type(error).__name__
