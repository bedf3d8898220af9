"""The caps on one connection."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may cost. Bytes are of UTF-8."""

    message_bytes: int = 64 * 1024
    """The largest frame that is handled; a larger one is answered with ``message_too_large``."""

    message_depth: int = 128
    """How deep arrays and objects of a message may lie within each other; beyond: ``message_too_deep``."""

    subscriptions: int = 1000
    """How many topics a connection may be subscribed to."""

    subscription_bytes: int = 64 * 1024
    """How many bytes these topics may have together."""

    buffered_bytes: int = 1024 * 1024
    """How much may wait for a client that does not read before it is closed with 4100."""

    rate: float | None = None
    """How many messages a second a connection may send in the long run; ``None``: as many as it likes."""

    burst: int = 100
    """How many of them at once, where ``rate`` is set."""

    rate_bytes: float | None = None
    """How many bytes of messages a second it may send in the long run; ``None``: as many as it likes."""

    burst_bytes: int = 1024 * 1024
    """How many of them at once, where ``rate_bytes`` is set."""
