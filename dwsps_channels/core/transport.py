"""The contract between a session and the connection that carries it.

Every implementation passes ``tests/transport_contract.py``.
"""

from typing import Protocol

from dwsps_channels.core.frames import Frame


class Transport(Protocol):
    """The outgoing half of one connection."""

    def send(self, frame: Frame) -> None:
        """Take ``frame`` for sending, in order.

        Return at once, whatever the reader does; never raise, and never call the session or the hub back from
        within this call: the hub is in the middle of a delivery. Ignore what comes after ``close``.
        """

    def close(self, code: int, farewell: Frame, *, discard: bool = False) -> None:
        """Send what is waiting (not so with ``discard``), then ``farewell``, then close with ``code``.

        Return at once. A reader that does not read is cut off soon after. A second call changes nothing.
        """
