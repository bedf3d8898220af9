"""The throttle against guessing secrets: each failure of an address delays its next attempt."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic

from dwsps_channels.connections.addresses import network_of

FREE = 3
"""This many failures cost nothing: a mistyped secret is no attack."""
FIRST_DELAY = 0.25
# Servers limit the handshake, Daphne to 5 s: even the slowest answer has to fit into that.
MAX_DELAY = 2.0
WAIT_TIMEOUT = 3.0
"""An attempt that waits longer for its turn is rejected unchecked."""
MAX_WAITING = 100
FORGET_TIMEOUT = 300.0
MAX_ADDRESSES = 10_000


class TooManyFailures(Exception):
    """The credential was not checked: its address has failed before, and too many attempts wait for their turn.

    ``is_first`` is true for the first such attempt since the address last had a turn.
    """

    def __init__(self, *, is_first: bool) -> None:
        super().__init__("too many false credentials from this address")
        self.is_first = is_first


@dataclass(slots=True, eq=False)
class _Record:
    """The failures of one address."""

    failures: int = 0
    last: float = 0.0
    """The time of the last failure."""
    ready_at: float = 0.0
    """The time from which the next attempt may be checked."""
    waiting: int = 0
    """Attempts that have their turn or wait for it."""
    is_reported: bool = False
    """True if an attempt was rejected unchecked since the last turn."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Throttle:
    """Checks the credentials of an address one at a time, with pauses that grow with its failures.

    So parallel connections gain nothing. An address is forgotten five minutes after its last failure; if there are too
    many addresses, the oldest is forgotten first. An IPv6 /64 counts as one address: it usually belongs to one host.
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
        """Wait until a credential from ``address`` may be checked. Call what is yielded if it is false.

        Raises:
            TooManyFailures: the address would have to wait too long.
        """
        network = network_of(address)
        now = self._clock()
        record = self._records.get(network)
        if record is None or (now - record.last > FORGET_TIMEOUT and not record.waiting):
            record = self._records[network] = _Record(last=now)
        deadline = now + WAIT_TIMEOUT
        if record.waiting >= MAX_WAITING or record.ready_at > deadline:
            raise self._rejection(record)
        record.waiting += 1
        try:
            async with record.turn:
                if record.ready_at > deadline:
                    raise self._rejection(record)
                if (pause := record.ready_at - self._clock()) > 0:
                    await self._sleep(pause)
                record.is_reported = False
                yield lambda: self._failed(network, record)
        finally:
            record.waiting -= 1
            # Meanwhile it may have been forgotten, and replaced.
            if self._records.get(network) is record and not (record.failures or record.waiting):
                del self._records[network]

    def _failed(self, network: str, record: _Record) -> None:
        now = self._clock()
        record.failures += 1
        record.last = now
        if record.failures >= FREE:
            # A bounded exponent, so that the power cannot overflow.
            doublings = min(record.failures - FREE, 10)
            record.ready_at = now + min(MAX_DELAY, FIRST_DELAY * 2.0**doublings)
        self._records[network] = record
        self._records.move_to_end(network)
        if len(self._records) > MAX_ADDRESSES:
            self._records.popitem(last=False)

    def _rejection(self, record: _Record) -> TooManyFailures:
        is_first, record.is_reported = not record.is_reported, True
        return TooManyFailures(is_first=is_first)
