"""The contract of a connection that publishes from a process that does not serve."""

from typing import Protocol

from dwsps_channels.core.broker import SendResult
from dwsps_channels.core.notice import Notice
from dwsps_channels.publishing.publisher import OutgoingMessage


class BlockingPublisher(Protocol):
    """One connection to the server, for one caller at a time. It blocks, and needs neither an event loop nor a thread.

    A deadline is a time of ``time.monotonic``.
    """

    def publish(self, message: OutgoingMessage, deadline: float) -> SendResult:
        """Have the server publish, after all that was published by this connection before.

        Connects first, if it has to.

        Raises:
            TimeoutError: not before the deadline; the server may have it nevertheless.
            OSError: no connection came about, or it broke. The text says why.
            Unavailable: the server answered that it does not take it. The connection stands.
        """
        ...

    def notify(self, notice: Notice, deadline: float) -> None:
        """Have the server send ``notice`` to its processes. Connects and raises as ``publish``."""
        ...

    def close(self) -> None:
        """End the connection, without waiting for anybody."""
