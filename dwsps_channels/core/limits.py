"""The caps on one connection."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one connection may cost. Bytes are of UTF-8."""

    message_bytes: int = 64 * 1024
    """The largest frame that is handled; a larger one is answered with ``message_too_large``."""

    message_depth: int = 128
    """The depth to which arrays and objects of a message may be nested; beyond: ``message_too_deep``."""

    subscriptions: int = 1000
    """The number of topics that a connection may be subscribed to."""

    subscription_bytes: int = 64 * 1024
    """The bytes that these topics may have together."""

    buffered_bytes: int = 1024 * 1024
    """The bytes that may wait for a client that does not read, before it is closed with 4100."""

    rate: float | None = None
    """The messages a second that a connection may send in the long run; ``None``: as many as it likes."""

    burst: int = 100
    """The messages that it may send at once, if ``rate`` is set."""

    rate_bytes: float | None = None
    """The bytes of messages a second that it may send in the long run; ``None``: as many as it likes."""

    burst_bytes: int = 1024 * 1024
    """The bytes that it may send at once, if ``rate_bytes`` is set."""
