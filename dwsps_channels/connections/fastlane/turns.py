"""Turns of the event loop, for connections that have sent more than is handled in one."""

import asyncio
from collections import deque
from typing import Final, Protocol

# So much of one connection is handled before the event loop looks at the others.
TURN_FRAMES: Final = 256
# The event loop may read a socket again and again, 256 KiB at a time, before it looks at another: a chunk of this size is
# handled, and the socket read again, in the connection's next turn.
TURN_BYTES: Final = 64 * 1024

# So many of those that wait go on in one iteration of the event loop.
CONNECTIONS: Final = 4


class Waiting(Protocol):
    def take_turn(self) -> None:
        """Handle more of what was sent, ``TURN_FRAMES`` at most; called once for each ``wait``."""


class Turns:
    """Has connections with a surplus go on, one after the other, a few in each iteration of the event loop.

    However many connections flood the server, an iteration stays short for everybody else.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Waiting] = deque()
        # How many calls of ``_next`` are scheduled: one for each that waits, ``CONNECTIONS`` at most.
        self._scheduled = 0

    def wait(self, connection: Waiting) -> None:
        """Have ``connection`` take a turn once it is due; it is not to wait already."""
        self._waiting.append(connection)
        if self._scheduled < CONNECTIONS:
            self._scheduled += 1
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        connection = self._waiting.popleft()
        if len(self._waiting) >= self._scheduled:
            self._loop.call_soon(self._next)
        else:
            self._scheduled -= 1
        connection.take_turn()
