"""Who is still there? One timer for all connections of a server."""

import asyncio
from math import ceil
from typing import Protocol


class Beating(Protocol):
    def beat(self) -> None:
        """Once in each interval: find out whether the client is still there."""


class Heartbeat:
    """Has each connection beat once in ``interval`` seconds; every second it is the turn of a part of them.

    Without an interval nothing beats.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, interval: float | None) -> None:
        self._loop = loop
        count = ceil(interval) if interval else 0
        self._parts: list[set[Beating]] = [set() for _ in range(count)]
        self._step = interval / count if interval else 0.0
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = None
        self._beating = 0

    def add(self, connection: Beating) -> int:
        """Have it beat, for the first time in one interval; give back what is returned to ``remove`` it."""
        if not self._parts:
            return -1
        # The part whose turn was the last.
        part = self._turn - 1
        self._parts[part].add(connection)
        self._beating += 1
        if self._timer is None:
            self._timer = self._loop.call_later(self._step, self._beat)
        return part % len(self._parts)

    def remove(self, connection: Beating, part: int) -> None:
        """Undo ``add``, if it was done."""
        if part >= 0 and connection in self._parts[part]:
            self._parts[part].remove(connection)
            self._beating -= 1

    def _beat(self) -> None:
        self._timer = None
        part = self._parts[self._turn]
        self._turn = (self._turn + 1) % len(self._parts)
        for connection in list(part):
            connection.beat()
        if self._beating:
            self._timer = self._loop.call_later(self._step, self._beat)
