"""The places for calls of the authenticator: so many at a time, and not all of them for one address."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from dwsps_channels.logs.throttle import LogThrottle
from dwsps_channels.threads.pools import MAX_WAIT, Busy

logger = logging.getLogger("dwsps_channels.tokens")

MAX_WAITING: Final = 1000
"""Calls of one address that are under way or wait for their place."""


class TooManyTokens(Exception):
    """The token was not checked: too many of its address are being checked, or wait for it. It was logged."""

    def __init__(self) -> None:
        super().__init__("too many tokens from this address at a time")


class _Line:
    """The calls of one address."""

    __slots__ = ("length", "turn")

    def __init__(self, share: int) -> None:
        self.turn = asyncio.Semaphore(share)
        self.length = 0
        """Those that have a place or wait for one."""


class Places:
    """Bounds the calls that are under way at a time.

    An address has three quarters of the places at most, however many tokens it sends, so that tokens of others do not wait
    for it. Calls wait for ``MAX_WAIT`` seconds: in the line of their address, then behind the first of the other lines.
    """

    def __init__(self, count: int) -> None:
        """Bound the calls to ``count``."""
        self._count = count
        self._share = max(1, count * 3 // 4)
        self._all = asyncio.Semaphore(count)
        self._lines: dict[str, _Line] = {}
        self._refusals = LogThrottle()

    async def enter(self, address: str) -> Callable[[], None]:
        """Wait for a place; call what is returned, once, to leave it.

        Args:
            address: what counts as one address, as ``network_of`` returns it.

        Raises:
            TooManyTokens: the address has its share of the places, and too many of its calls wait.
            Busy: all places were taken all the time.
        """
        line = self._lines.get(address)
        if line is None:
            line = self._lines[address] = _Line(self._share)
        if line.length >= MAX_WAITING:
            raise self._refusal(address)
        line.length += 1
        is_next = False
        try:
            async with asyncio.timeout(MAX_WAIT) as waiting:
                await line.turn.acquire()
                is_next = True
                await self._all.acquire()
        except BaseException as error:
            self._forget(address, line, has_turn=is_next)
            if not (isinstance(error, TimeoutError) and waiting.expired()):
                raise
            if not is_next:
                raise self._refusal(address) from None
            raise Busy(f"{self._count} tokens were being checked for {MAX_WAIT:g} s") from None
        return partial(self._leave, address, line)

    def _leave(self, address: str, line: _Line) -> None:
        self._all.release()
        self._forget(address, line, has_turn=True)

    def _forget(self, address: str, line: _Line, *, has_turn: bool) -> None:
        if has_turn:
            line.turn.release()
        line.length -= 1
        if not line.length:
            del self._lines[address]

    def _refusal(self, address: str) -> TooManyTokens:
        error = TooManyTokens()
        if self._refusals.is_due(address):
            logger.warning("tokens from %s are not checked: %s", address, error)
        return error
