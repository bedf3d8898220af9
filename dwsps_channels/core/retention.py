"""The bounds of what is kept."""

from msgspec import Struct


class Retention(Struct, frozen=True):
    """How much of the log a process keeps, and for how long."""

    messages: int = 10_000
    """The number of messages."""
    bytes: int = 16 * 1024 * 1024
    """The memory that they take, nearly."""
    seconds: float = 3600.0
    """Their age."""
