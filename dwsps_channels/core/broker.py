"""The contract of a broker. Every implementation passes ``tests/broker/contract.py``."""

from typing import Protocol

from msgspec import Struct

from dwsps_channels.core.futures import Future
from dwsps_channels.core.log import Log
from dwsps_channels.core.publication import Publication


class Receiver(Protocol):
    """The receiving end of a broker: the node of this process."""

    def begin(self, log: Log) -> None:
        """Take over ``log``: what is received next comes after it.

        A broker that has a log calls it before the first ``receive``, and again if continuity is lost: the epoch is
        another, or this process has missed publications. A broker without a log never calls it.
        """

    def exclude(self) -> None:
        """Have no clients until ``begin``: another process is this server, and none of them would get anything here."""

    def miss(self) -> None:
        """Take note that publications were missed for good. Called by a broker without a log; others call ``begin``."""

    def receive(self, publication: Publication, offset: int | None) -> None:
        """Take the next publication and its offset: its place in the log; ``None`` if the broker has no log."""


class Repeated(int):
    """The offset of an earlier publication with the same key: nothing was published."""


class BrokerStats(Struct, frozen=True):
    """The counters of a broker, since its start."""

    connected: bool = True
    """True if it reaches the other processes, as far as it knows."""
    waiting: int = 0
    """Publications that wait to be sent."""
    gaps: int = 0
    """Number of times that this process missed publications."""
    missed: int = 0
    """Number of publications that this process missed."""
    epochs: int = 0
    """Number of times that the log began another epoch, since its end could not be vouched for."""


class SendResult(Struct, frozen=True):
    """The broker's answer to a publication from a process that is not part of the server."""

    offset: int | None = None
    """The publication's place in the log; ``None``: the broker keeps no log."""
    lost: str = ""
    """Why no process of the server received it; empty if one did, as far as can be known."""


class Broker(Protocol):
    """Carries publications to every process of a server, the one that published included.

    Each process gets each publication once: those of one publisher in their order, and all of them in one order that
    all processes share, if what the broker runs over has one. What a broker cannot carry it refuses (``Unavailable``),
    or it counts and logs the loss: it never drops in silence.
    """

    async def start(self, receiver: Receiver) -> None:
        """Begin to receive: call ``receiver``, on this event loop, for each publication.

        Return once this process receives, or once it is known that it cannot for now: then go on trying.
        """

    def publish(self, publication: Publication, key: str = "") -> int | Future:
        """Hand over ``publication``, in the order of the calls.

        A broker that has a log publishes nothing if the same ``key`` was given before, on any process, within
        five minutes: the answer is then the offset of the first, as ``Repeated``. An empty key is none.

        Returns:
            The offset, if ``receiver`` has it when this returns. Otherwise a future: its result is the
            offset, or ``None`` if the broker has no log, and it is done once the broker has the publication and
            ``receiver`` was given it here. If the copy for this process is lost, the broker's acceptance alone
            will do. It fails with ``Unavailable`` if the broker did not take the publication: nobody gets it then,
            unless the connection broke while it was being sent.
        """

    async def stop(self) -> None:
        """Send what was accepted, stop receiving, and leave nothing behind. A second call changes nothing.

        Publications are refused from then on.
        """

    def stats(self) -> BrokerStats:
        """Return the counters as they are now."""
