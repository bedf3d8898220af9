"""The events that a reader gives out for the frames of a client."""

from typing import NamedTuple


class Ping(NamedTuple):
    """A ping, to be answered with the same payload."""

    payload: bytes


class Pong(NamedTuple):
    """The answer to a ping, or one that nobody asked for."""

    payload: bytes


class Close(NamedTuple):
    """The last frame of the client."""

    code: int
    """``close.NO_STATUS`` if the client gave none."""
    reason: str


class Fragment(NamedTuple):
    """A frame after which its message goes on. It is given out so that the caller can stop reading after it."""


class Oversized(NamedTuple):
    """A message that is larger than the reader keeps. It was read to its end, and skipped but for its two ends."""

    size: int
    """Bytes, all fragments together."""
    head: bytes
    tail: bytes


Control = Ping | Pong | Close
Message = str | bytes


class Violation(Exception):
    """A breach of the protocol or a limit by the client: the connection is to be failed with ``code``."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
