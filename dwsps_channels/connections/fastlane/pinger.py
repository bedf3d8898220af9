"""One timer for the pings of all connections of a server."""

import asyncio
from math import ceil
from typing import Protocol


class PingTarget(Protocol):
    def on_ping_due(self) -> None:
        """Send a ping, or end a connection that has not answered; called once in each interval."""


class Pinger:
    """Calls each connection once in ``interval`` seconds: every second a part of them.

    Without an interval it calls none.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, interval: float | None) -> None:
        self._loop = loop
        count = ceil(interval) if interval else 0
        self._parts: list[set[PingTarget]] = [set() for _ in range(count)]
        self._step = interval / count if interval else 0.0
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = None
        self._target_count = 0

    def add(self, connection: PingTarget) -> int:
        """Call ``connection`` from now on, first in one interval. Return its slot, for ``remove``."""
        if not self._parts:
            return -1
        # The part whose turn was the last.
        part = self._turn - 1
        self._parts[part].add(connection)
        self._target_count += 1
        if self._timer is None:
            self._timer = self._loop.call_later(self._step, self._send_pings)
        return part % len(self._parts)

    def remove(self, connection: PingTarget, part: int) -> None:
        """Undo ``add``, if it was done."""
        if part >= 0 and connection in self._parts[part]:
            self._parts[part].remove(connection)
            self._target_count -= 1

    def _send_pings(self) -> None:
        self._timer = None
        part = self._parts[self._turn]
        self._turn = (self._turn + 1) % len(self._parts)
        for connection in list(part):
            connection.on_ping_due()
        if self._target_count:
            self._timer = self._loop.call_later(self._step, self._send_pings)
