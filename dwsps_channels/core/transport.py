"""The contract between a session and the connection that carries it.

Every implementation passes ``tests/connections/transports/contract.py``.
"""

from collections.abc import Awaitable, Collection
from typing import Any, Protocol

from dwsps_channels.protocol.frames import Frame


class Courier(Protocol):
    """Delivers to many connections for less than sending to each would cost."""

    def deliver(self, frame: Frame, party: Collection[Any]) -> None:
        """Do what ``send`` of each transport in ``party`` would, under the same contract.

        All of them name this courier as theirs. ``party`` is never changed: where the same one is given again,
        nobody has come or gone. ``in`` is quick to be answered.
        """


class Transport(Protocol):
    """The outgoing half of one connection."""

    @property
    def courier(self) -> Courier | None:
        """Who delivers to this connection and many others at once; ``None``: nobody can."""

    def send(self, frame: Frame) -> None:
        """Take ``frame`` for sending, in order.

        Return at once, whatever the reader does; never raise, and never call the session or the hub back from
        within this call: the hub is in the middle of a delivery. Ignore what comes after ``close``.
        """

    def caught_up(self) -> Awaitable[None] | None:
        """Await what is returned before you publish more to the client: it is behind. ``None``: no need to wait.

        It is never long in coming, though the client may not read at all.
        """

    def close(self, code: int, farewell: Frame, *, discard: bool = False) -> None:
        """Send what is waiting (not so with ``discard``), then ``farewell``, then close with ``code``.

        Return at once. A reader that does not read is cut off soon after. A second call changes nothing.
        """
