"""Round robin among connections that have sent more than is handled in one turn of the event loop."""

import asyncio
from collections import deque
from typing import Final, Protocol

# The most of one connection that is handled before the event loop looks at the others.
MAX_FRAMES_PER_TURN: Final = 256
# The event loop may read a socket again and again, 256 KiB at a time, before it looks at another: a chunk of this size is
# handled, and the socket read again, in the connection's next turn.
MAX_BYTES_PER_TURN: Final = 64 * 1024

# The waiting connections that have a turn in one iteration of the event loop.
TURNS_PER_ITERATION: Final = 4


class TurnTaker(Protocol):
    """A connection that has more to handle."""

    def take_turn(self) -> None:
        """Handle more of what was sent, ``MAX_FRAMES_PER_TURN`` at most; called once for each ``enqueue``."""


class RoundRobin:
    """Gives turns to connections, one after the other, a few in each iteration of the event loop.

    However many connections flood the server, an iteration stays short for everybody else.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[TurnTaker] = deque()
        # The scheduled calls of ``_next``: one for each connection that waits, ``TURNS_PER_ITERATION`` at most.
        self._scheduled = 0

    def enqueue(self, connection: TurnTaker) -> None:
        """Give ``connection`` a turn when it is due. It must not wait for one already."""
        self._waiting.append(connection)
        if self._scheduled < TURNS_PER_ITERATION:
            self._scheduled += 1
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        connection = self._waiting.popleft()
        if len(self._waiting) >= self._scheduled:
            self._loop.call_soon(self._next)
        else:
            self._scheduled -= 1
        connection.take_turn()
