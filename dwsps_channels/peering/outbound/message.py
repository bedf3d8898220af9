"""A message on its way to peers."""

from typing import NamedTuple, Self

import msgspec
from msgspec import Raw, Struct

from dwsps_channels.core.page import Logged, Page, Position


class ForwardedMessage(NamedTuple):
    """A message and the frame that carries it. Origin and sequence identify it."""

    origin: str
    sequence: int
    epoch: str
    offset: int
    """Its place in the log."""
    at: float
    """The time at which it was appended to the log, in seconds since the epoch."""
    topic: str
    frame: bytes

    @classmethod
    def of(cls, logged: Logged, epoch: str) -> Self:
        """Make the message for what was published on this server. ``epoch`` is that of its offset."""
        publication = logged.publication
        frame = _Forwarded(
            topic=publication.topic,
            message=publication.message,
            timestamp=publication.timestamp,
            from_peer_server=True,
            id=publication.sequence,
            origin=publication.origin,
        )
        return cls(
            publication.origin,
            publication.sequence,
            epoch,
            logged.offset,
            logged.at,
            publication.topic,
            _encode(frame),
        )

    @property
    def position(self) -> Position:
        """The position of a reader that is done with it."""
        return Position(f"{self.epoch}:{self.offset}", self.at)

    @property
    def size(self) -> int:
        """The size in bytes."""
        return len(self.frame)


class MessagePage(NamedTuple):
    """A page of the log, and its messages, which all links share."""

    page: Page
    messages: tuple[ForwardedMessage, ...]

    @classmethod
    def of(cls, page: Page) -> Self:
        """Encode the messages of ``page``."""
        epoch = page.cursor.partition(":")[0]
        return cls(page, tuple(ForwardedMessage.of(logged, epoch) for logged in page.entries))


class _Forwarded(Struct, frozen=True, rename="camel", tag_field="type", tag="publish"):
    """The frame for peers (docs/reference/protocol.md, "Peers")."""

    topic: str
    message: Raw
    timestamp: str
    from_peer_server: bool
    id: int
    origin: str


_encode = msgspec.json.Encoder().encode
