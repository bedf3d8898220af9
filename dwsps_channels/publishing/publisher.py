"""The contract of publishing: what a message is, where it goes, and what becomes of it."""

from typing import Protocol

from msgspec import Raw, Struct

from dwsps_channels.core.keys import DURABLE_PREFIX
from dwsps_channels.core.notice import Notice


class OutgoingMessage(Struct, frozen=True):
    """A message that was checked and encoded, on its way to a publisher."""

    topic: str
    payload: Raw
    """JSON."""
    timestamp: str
    """When ``publish()`` was called: RFC 3339, UTC, milliseconds."""
    key: str = ""
    """Makes it safe to publish the message again; empty: none was given."""
    durable_id: str = ""
    """The id of the row that keeps the message until the log has it, in 32 hex digits; empty: it is not durable."""

    @property
    def broker_key(self) -> str:
        """The key that the broker gets; empty: none."""
        return DURABLE_PREFIX + self.durable_id if self.durable_id else self.key


class PublishResult(Struct, frozen=True):
    """The result of a publish."""

    reached: int
    """Sessions of this process that it reaches, each counted once; 0 in a process that does not serve."""

    offset: int | None = None
    """The message's place in the log; ``None`` if the broker keeps no log, or has not answered yet."""


class Publisher(Protocol):
    """A way to the server. Implementations: in this process, through the broker or a websocket, and for tests."""

    def publish(self, message: OutgoingMessage) -> PublishResult:
        """Publish from synchronous code, in any thread. Takes ``DWSPS["PUBLISH_TIMEOUT"]`` seconds at most.

        Raises:
            NotServing: there is no server, and has been none.
            Unavailable: the server did not take the message in time, or nobody knows. The loss is counted, unless the
                message is durable: then it will be published again.
        """
        ...

    async def apublish(self, message: OutgoingMessage) -> PublishResult:
        """Publish from asynchronous code, on any event loop. Raises as ``publish``."""
        ...


class Notifier(Protocol):
    """A way to tell the server's processes something. Every implementation of ``Publisher`` in this room is one."""

    def notify(self, notice: Notice, *, again: bool = False) -> None:
        """Send ``notice`` to every process of the server, from synchronous code. Raises as ``publish``; nothing is counted.

        If the server does not take it, it takes effect in this process; but not ``again``, as it has done so before.
        """
        ...

    async def anotify(self, notice: Notice) -> None:
        """Do as ``notify`` from asynchronous code, on any event loop."""
        ...
