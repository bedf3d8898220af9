"""The number of requests in flight, if a server limits their rate."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from dwsps_channels.client.calls import Call
from dwsps_channels.client.errors import CallError
from dwsps_channels.client.messages import Incoming
from dwsps_channels.protocol.errors import RateLimited

logger = logging.getLogger("dwsps_channels.client")

# Fewer are refused in a row than a rate limit allows in one burst: a client that goes on beyond its limit is closed.
FIRST: Final = 16
LARGEST: Final = 128


class Window:
    """Bounds what one connection has on its way: subscribes, and publishes that waited.

    It grows by half in each round trip until the server first says ``rate_limited``. Then it pauses, is 1 again, and
    grows by 1 in each round trip. Send only while ``is_open``, and only what ``count`` gives.
    """

    def __init__(self, reopened: Callable[[], None], delay: Callable[[int], float]) -> None:
        """Start with an open window.

        Args:
            reopened: called whenever more may be sent.
            delay: seconds of the first pause (0), the second in a row, …
        """
        self._reopened = reopened
        self._delay = delay
        self._size = float(FIRST)
        self._growth: float | None = 0.5  # for each ack; ``None``: the size's inverse
        self._under_way = 0
        self._pauses = 0  # in a row, without an ack in between
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Return whether one more may be sent."""
        return not self._closed and self._pause is None and self._under_way < int(self._size)

    def count(self, call: Call) -> Call:
        """Return the same call, counted until it is answered."""
        self._under_way += 1

        def done(ack: Incoming) -> None:
            self._under_way -= 1
            self._pauses = 0
            self._size = min(LARGEST, self._size + (self._growth or 1 / self._size))
            call.done(ack)
            self._reopened()

        def fail(error: CallError) -> None:
            self._under_way -= 1
            if error.code == RateLimited.code:
                self._begin_pause(error)
            call.fail(error)
            self._reopened()

        return replace(call, done=done, fail=fail)

    def close(self) -> None:
        """Note that the connection is gone."""
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()

    def _begin_pause(self, error: CallError) -> None:
        if self._pause is not None or self._closed:
            return
        delay = self._delay(self._pauses)
        logger.info("the server limits the rate, continuing in %.1f s: %s", delay, error)
        self._pauses += 1
        self._size, self._growth = 1.0, None
        self._pause = asyncio.get_running_loop().call_later(delay, self._end_pause)

    def _end_pause(self) -> None:
        self._pause = None
        self._reopened()
