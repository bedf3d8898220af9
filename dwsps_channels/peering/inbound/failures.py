"""Slows down guessing: the more credentials from an address were false, the longer it waits for its next try."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic

from dwsps_channels.connections.addresses import network_of

FREE = 3
"""So many failures cost nothing: somebody mistyped a secret."""
FIRST_DELAY = 0.25
# Servers give a handshake little time, Daphne 5 s: whoever comes again and again is to be answered within it.
MAX_DELAY = 2.0
WAIT_TIMEOUT = 3.0
"""If its turn does not come within it, a try is turned away unexamined."""
MAX_WAITING = 100
FORGET_TIMEOUT = 300.0
MAX_ADDRESSES = 10_000


class TooManyFailures(Exception):
    """A credential that is not examined: others of its address were false, and too many wait for their turn.

    ``is_first`` is true for the first one since the address was last examined.
    """

    def __init__(self, *, is_first: bool) -> None:
        super().__init__("too many false credentials from this address")
        self.is_first = is_first


@dataclass(slots=True, eq=False)
class _Record:
    """What is known of an address."""

    failures: int = 0
    last: float = 0.0
    """When it last failed."""
    ready_at: float = 0.0
    """When its next try may be examined."""
    waiting: int = 0
    """Tries that are being examined or wait for it."""
    told: bool = False
    examining: asyncio.Lock = field(default_factory=asyncio.Lock)


class Failures:
    """Examines the credentials of an address one after the other, at intervals that grow with its failures.

    So many connections at once gain nothing. It forgets an address that did not fail for five minutes, and the
    oldest when there are many. The /64 of an IPv6 address counts as one: whoever has one address of it has all.
    """

    def __init__(
        self,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        # By network; the one that failed latest last.
        self._records: OrderedDict[str, _Record] = OrderedDict()

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[Callable[[], None]]:
        """Wait until a credential from ``address`` may be examined. If it is false, call what is given.

        Raises:
            TooManyFailures: it may not be examined soon.
        """
        network = network_of(address)
        now = self._clock()
        record = self._records.get(network)
        if record is None or (now - record.last > FORGET_TIMEOUT and not record.waiting):
            record = self._records[network] = _Record(last=now)
        deadline = now + WAIT_TIMEOUT
        if record.waiting >= MAX_WAITING or record.ready_at > deadline:
            raise self._turned_away(record)
        record.waiting += 1
        try:
            async with record.examining:
                if record.ready_at > deadline:
                    raise self._turned_away(record)
                if (pause := record.ready_at - self._clock()) > 0:
                    await self._sleep(pause)
                record.told = False
                yield lambda: self._failed(network, record)
        finally:
            record.waiting -= 1
            # It may have been dropped in the meantime, and another one be there in its place.
            if self._records.get(network) is record and not (record.failures or record.waiting):
                del self._records[network]

    def _failed(self, network: str, record: _Record) -> None:
        now = self._clock()
        record.failures += 1
        record.last = now
        if record.failures >= FREE:
            # The exponent is bounded, so that the power is.
            doublings = min(record.failures - FREE, 10)
            record.ready_at = now + min(MAX_DELAY, FIRST_DELAY * 2.0**doublings)
        self._records[network] = record
        self._records.move_to_end(network)
        if len(self._records) > MAX_ADDRESSES:
            self._records.popitem(last=False)

    def _turned_away(self, record: _Record) -> TooManyFailures:
        is_first, record.told = not record.told, True
        return TooManyFailures(is_first=is_first)
