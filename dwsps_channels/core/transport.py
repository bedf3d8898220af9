"""The contract between a session and the connection that carries it.

Every implementation passes ``tests/connections/transports/contract.py``.
"""

from collections.abc import Awaitable, Collection
from typing import Any, Protocol

from dwsps_channels.protocol.frames import Frame, Frames


class Broadcaster(Protocol):
    """Delivery to many connections at a lower cost than a ``send`` to each."""

    def broadcast(self, frame: Frame, group: Collection[Any]) -> None:
        """Do what ``send`` of each transport in ``group`` would do, under the same contract.

        Each transport in ``group`` has this broadcaster. ``group`` is never changed, so the same object means the same
        transports; ``in`` is a fast test on it.
        """


class Recipient(Protocol):
    """The receiving end of deliveries."""

    @property
    def broadcaster(self) -> Broadcaster | None:
        """The broadcaster that delivers to this connection and many others at once; ``None``: each frame is sent alone."""

    def send(self, frame: Frame) -> None:
        """Take ``frame`` for sending, in order.

        Return at once, whatever the reader does; never raise, and never call the session or the hub back from
        within this call: the hub is in the middle of a delivery. Ignore what comes after ``close``.
        """


class Transport(Recipient, Protocol):
    """The outgoing half of one connection."""

    @property
    def buffered_bytes(self) -> int:
        """The bytes queued for a client that is behind; the server and the network hold some more."""

    def send_all(self, frames: Frames) -> None:
        """Do what ``send`` of each of ``frames``, a replay, would do, in order.

        Publishers do not wait for the client to read these: they publish the present, and others have had the past.
        """

    def caught_up(self) -> Awaitable[None] | None:
        """Await what is returned before you publish more to the client: it is behind. ``None``: no need to wait.

        It is never long in coming, though the client may not read at all.
        """

    def close(self, code: int, final_frame: Frame, *, discard: bool = False) -> None:
        """Send what is waiting (not so with ``discard``), then ``final_frame``, then close with ``code``.

        Return at once. A reader that does not read is cut off soon after. A second call changes nothing.
        """
