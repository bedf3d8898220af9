"""The throttle against guessing: each false credential of an address delays its next attempt."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from secrets import token_bytes
from time import monotonic

from dwsps_channels.connections.addresses import network_of

FREE = 3
"""This many false credentials cost nothing: a mistyped secret is no attack."""
FIRST_DELAY = 0.25
# Servers limit the handshake, Daphne to 5 s: even the slowest answer has to fit into that.
MAX_DELAY = 2.0
WAIT_TIMEOUT = 3.0
"""An attempt that waits longer for its turn is rejected unchecked."""
MAX_WAITING = 100
FORGET_TIMEOUT = 300.0
MAX_ADDRESSES = 10_000
MAX_KNOWN = 20
"""The false credentials of an address that are recognised: the newest. With all addresses they take about 40 MB."""
KNOWN_INTERVAL = 1.0
"""The time between two checks of the same false credential, which may have become right meanwhile."""


class TooManyFailures(Exception):
    """The credential was not checked: its address has failed before, or too many attempts of it wait for their turn.

    ``is_first`` is true for the first such attempt since the address last had a turn.
    """

    def __init__(self, *, is_first: bool, has_failed: bool = True) -> None:
        super().__init__(
            "too many false credentials from this address"
            if has_failed
            else "too many credentials from this address at a time"
        )
        self.is_first = is_first


class KnownFailure(Exception):
    """The credential was false a moment ago, and was not checked again."""

    def __init__(self) -> None:
        super().__init__("it was false a moment ago")


def delay_after(failures: int, free: int) -> float:
    """Return the seconds until the next attempt after so many failures, of which ``free`` - 1 cost nothing."""
    # A bounded exponent, so that the power cannot overflow.
    return (
        min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(failures - free, 10)) if failures >= free else 0.0
    )


@dataclass(slots=True, eq=False)
class _Record:
    """The failures of one address."""

    turn: asyncio.Semaphore
    failures: int = 0
    """The false credentials, each counted once."""
    last: float = 0.0
    """The time of the last failure."""
    ready_at: float = 0.0
    """The time from which the next attempt may be checked."""
    waiting: int = 0
    """Attempts that have their turn or wait for it."""
    is_reported: bool = False
    """True if an attempt was rejected unchecked since the last turn."""
    known: OrderedDict[bytes, float] = field(default_factory=OrderedDict)
    """The newest false credentials, hashed, and the time of the last check of each."""


class Throttle:
    """Checks the credentials of an address a few at a time, with pauses that grow with its failures.

    So parallel connections gain nothing. The same false credential counts once, and is checked at most once a second: a
    client that does not notice that its token has expired guesses nothing. An address is forgotten five minutes after its
    last failure; if there are too many addresses, the oldest is forgotten first. An IPv6 /64 counts as one address: it
    usually belongs to one host.
    """

    def __init__(
        self,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        *,
        free: int = FREE,
        parallel: int = 1,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """Let the first ``free`` failures of an address cost nothing, and check ``parallel`` credentials of it at a time."""
        self._clock = clock
        self._sleep = sleep
        self._free = free
        self._parallel = parallel
        self._max_waiting = max_waiting
        # By network; the one that failed latest last.
        self._records: OrderedDict[str, _Record] = OrderedDict()
        # Credentials are kept as hashes that mean nothing outside of this process.
        self._key = token_bytes(16)

    @asynccontextmanager
    async def turn(self, address: str, credential: str) -> AsyncIterator[Callable[[], None]]:
        """Wait until ``credential`` from ``address`` may be checked. Call what is yielded if it is false.

        Raises:
            TooManyFailures: the address would have to wait too long.
            KnownFailure: this credential was false a moment ago.
        """
        network = network_of(address)
        hashed = self._hash(credential)
        now = self._clock()
        record = self._records.get(network)
        if record is None or (now - record.last > FORGET_TIMEOUT and not record.waiting):
            record = _Record(asyncio.Semaphore(self._parallel), last=now)
            self._records[network] = record
        deadline = now + WAIT_TIMEOUT
        if self._is_known(record, hashed):
            raise KnownFailure
        if record.waiting >= self._max_waiting or record.ready_at > deadline:
            raise self._rejection(record)
        record.waiting += 1
        try:
            await self._wait(record)
            try:
                if self._is_known(record, hashed):
                    raise KnownFailure
                if record.ready_at > deadline:
                    raise self._rejection(record)
                if (pause := record.ready_at - self._clock()) > 0:
                    await self._sleep(pause)
                record.is_reported = False
                yield lambda: self._failed(network, record, hashed)
            finally:
                record.turn.release()
        finally:
            record.waiting -= 1
            # Meanwhile it may have been forgotten, and replaced.
            if self._records.get(network) is record and not (record.failures or record.waiting):
                del self._records[network]

    async def _wait(self, record: _Record) -> None:
        """Wait for the turn. The checks of others may be slow, also if nothing was false."""
        try:
            async with asyncio.timeout(WAIT_TIMEOUT) as waiting:
                await record.turn.acquire()
        except TimeoutError:
            if waiting.expired():
                raise self._rejection(record) from None
            raise

    def _hash(self, credential: str) -> bytes:
        data = credential.encode(errors="surrogatepass")
        return blake2b(data, key=self._key, digest_size=16).digest()

    def _is_known(self, record: _Record, hashed: bytes) -> bool:
        checked = record.known.get(hashed)
        return checked is not None and self._clock() - checked < KNOWN_INTERVAL

    def _failed(self, network: str, record: _Record, hashed: bytes) -> None:
        now = self._clock()
        is_new = hashed not in record.known
        record.known[hashed] = now
        record.known.move_to_end(hashed)
        if not is_new:
            return
        if len(record.known) > MAX_KNOWN:
            record.known.popitem(last=False)
        record.failures += 1
        record.last = now
        record.ready_at = now + delay_after(record.failures, self._free)
        self._records[network] = record
        self._records.move_to_end(network)
        if len(self._records) > MAX_ADDRESSES:
            self._records.popitem(last=False)

    def _rejection(self, record: _Record) -> TooManyFailures:
        is_first, record.is_reported = not record.is_reported, True
        return TooManyFailures(is_first=is_first, has_failed=record.failures > 0)
