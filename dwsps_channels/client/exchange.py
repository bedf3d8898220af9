"""Requests and their answers on one connection."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from dwsps_channels.client import messages
from dwsps_channels.client.calls import Call, Calls
from dwsps_channels.client.connection import Connection
from dwsps_channels.client.errors import CallTimeout, ConnectionClosed
from dwsps_channels.client.messages import Incoming


class Exchange:
    """Sends calls on a connection, finds the call that a frame answers, and gives up those that nothing answers.

    Run ``write``; call ``heard`` for each frame that comes in, ``end`` when the connection is gone, and ``stop`` at last.
    """

    def __init__(self, connection: Connection, timeout: float) -> None:
        self.connection = connection
        self.was_silent = False
        """True if the connection was given up because the server answered nothing."""
        self._timeout = timeout
        self._calls = Calls()
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._expiry: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run it in a task that ends with the connection."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call it after a while, unless the connection ends before."""

        async def wait() -> None:
            await asyncio.sleep(seconds)
            function()

        self.run(wait())

    async def stop(self) -> None:
        """Cancel what ``run`` was given; return when it has ended."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def send(self, call: Call, payload: bytes = b"") -> None:
        """Send it, after all that was sent before; return at once."""
        call.sent_at = self._loop.time()
        id = self._calls.add(call)
        self._outgoing.put_nowait(messages.encode(call.action, id, call.topic, payload))
        if self._expiry is None:
            self._expire_in(self._timeout)

    async def write(self) -> None:
        """Write what is sent, for as long as there is a connection."""
        with suppress(ConnectionClosed):  # who reads hears of it, too
            while True:
                await self.connection.send(await self._outgoing.get())

    def heard(self) -> None:
        """Note that a frame of any kind came in."""
        self._heard_at = self._loop.time()

    def answered(self, frame: Incoming) -> Call | None:
        """Return the call that an ack or an error answers, if anybody still waits for it."""
        if frame.is_farewell:
            return None
        vague = frame.type == "error"
        return self._calls.take(frame.id, frame.action, frame.topic, vague=vague)

    def end(self) -> list[Call]:
        """Give the calls that are not answered, and forget them."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        return self._calls.clear()

    def _expire_in(self, seconds: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = self._loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        """Fail the oldest calls, which have waited long enough. If nothing came at all since, the connection is dead."""
        self._expiry = None
        now = self._loop.time()
        for call in self._calls.waiting():
            left = call.sent_at + self._timeout - now
            if left > 0:
                return self._expire_in(left)
            if self._heard_at < call.sent_at:
                self.was_silent = True
                return self.connection.abort(f"the server was silent for {self._timeout:g} s")
            # It stays: an ack without an id goes to the oldest, which this one still is.
            call.expired = True
            reason = f"no answer within {self._timeout:g} s"
            call.fail(CallTimeout(call.action, call.topic, reason))
        return None
