"""A message on its way to peers."""

from typing import NamedTuple


class ForwardedMessage(NamedTuple):
    """A message and the frame that carries it. Origin and sequence identify it."""

    origin: str
    sequence: int
    at: float
    """The time at which it entered this server, in seconds since the epoch."""
    topic: str
    frame: bytes
    publisher: str = ""
    """This server's id for its publisher; empty for the server's own code."""

    @property
    def size(self) -> int:
        """The size in bytes."""
        return len(self.frame)
