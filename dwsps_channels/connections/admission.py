"""The limits on the clients of this process: in all, and from one address."""

import logging
from collections import Counter
from collections.abc import Callable
from time import monotonic

from dwsps_channels.connections.addresses import network_of
from dwsps_channels.logs.throttle import LogThrottle

logger = logging.getLogger("dwsps_channels.admission")


class ConnectionLimitReached(Exception):
    """A client that is not admitted: a limit is reached."""


class Place:
    """The place of one client. Give it back with ``leave``; a second call does nothing."""

    __slots__ = ("_admission", "_network")

    def __init__(self, admission: "Admission", network: str) -> None:
        self._admission: Admission | None = admission
        self._network = network

    def leave(self) -> None:
        if self._admission is not None:
            self._admission.free(self._network)
            self._admission = None


class Admission:
    """Counts clients, and refuses those beyond ``total`` or, from one address, ``per_address``; ``None``: no limit.

    Clients without a known address count only for ``total``.
    """

    def __init__(
        self,
        total: int | None,
        per_address: int | None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._total = total
        self._per_address = per_address
        self._open = 0
        self._by_network: Counter[str] = Counter()
        self.refused = 0
        """The clients that were refused since the process started."""
        self._throttle = LogThrottle(clock=clock)

    def enter(self, address: str) -> Place | None:
        """Return a place for a client from ``address``; ``None``: it needs none, as nothing is limited.

        Raises:
            ConnectionLimitReached: no place is left.
        """
        if self._total is None and self._per_address is None:
            return None
        if self._total is not None and self._open >= self._total:
            self._refuse(f"DWSPS['MAX_CONNECTIONS'] is {self._total}")
        network = network_of(address) if self._per_address is not None and address else ""
        if network:
            assert self._per_address is not None
            if self._by_network[network] >= self._per_address:
                self._refuse(
                    f"DWSPS['MAX_CONNECTIONS_PER_ADDRESS'] is {self._per_address}, "
                    f"and {network} has reached it"
                )
            self._by_network[network] += 1
        self._open += 1
        return Place(self, network)

    def free(self, network: str) -> None:
        """Take back a place; for ``Place``."""
        self._open -= 1
        if network:
            self._by_network[network] -= 1
            if not self._by_network[network]:
                del self._by_network[network]

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        if self._throttle.is_due():
            logger.warning(
                "connection refused: %s; %d refused since the start", reason, self.refused
            )
        raise ConnectionLimitReached(reason)
