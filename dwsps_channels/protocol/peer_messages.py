"""The messages between servers, and between a server and its worker (docs/reference/protocol.md, "Peers")."""

from typing import Annotated, ClassVar, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from dwsps_channels.protocol.messages import (
    Action,
    Id,
    Last,
    Publish,
    Request,
    Requests,
    Resume,
    Since,
    Subscribe,
    Unsubscribe,
    decode_part,
)

MAX_ORIGIN: Final = 64

_Origin = Annotated[str, Meta(min_length=1, max_length=MAX_ORIGIN)]


class ForwardedPublish(Publish, frozen=True, gc=False, rename="camel", tag="publish"):
    """Peer to server: a publish, its own or a forwarded one."""

    origin: Raw | UnsetType = UNSET
    """With ``id`` the name of the message on every server."""

    @property
    def name(self) -> tuple[str, int] | None:
        """Origin and sequence; ``None``: a dwsps 1.0.1 server sends no name, and no duplicate of it is recognised."""
        origin = decode_part(self.origin, _Origin)
        return None if origin is UNSET or not isinstance(self.id, int) else (origin, self.id)


class FeedRequest(Struct, frozen=True, gc=False, tag_field="type", tag="feed"):
    """Worker to server: request the next page of what is published here."""

    action: ClassVar[Literal["feed"]] = "feed"
    topic: ClassVar[UnsetType] = UNSET
    cursor: Since
    """The place that the page follows: see ``Position``."""
    at: float
    """When what is there was appended."""
    messages: Annotated[int, Meta(ge=0)]
    """The number of messages in the page, at most; the server may have a lower limit. 0: the page is empty, and its reader
    asks for nothing after it."""
    size: Annotated[int, Meta(ge=1)]
    """Their bytes, nearly, at most; likewise. One message comes in any case."""
    wait: bool = True
    """False: the answer comes at once, with an empty page if nothing follows. A request with the same ``id`` that waits
    is answered by it."""
    id: Id | UnsetType = UNSET


class HistoryRequest(Struct, frozen=True, gc=False, tag_field="type", tag="history"):
    """The server's own code, in another process, to server: request history without subscribing."""

    action: ClassVar[Action] = "history"
    topic: str
    since: Since | UnsetType = UNSET
    """As in ``Subscribe``; if neither it nor ``last`` is there, all that a client would be sent again."""
    last: Last | UnsetType = UNSET
    id: Id | UnsetType = UNSET


class NoticeRequest(Struct, frozen=True, gc=False, tag_field="type", tag="notice"):
    """The server's own code, in another process, to server: request to send a notice to all of its processes."""

    action: ClassVar[Action] = "notice"
    topic: ClassVar[UnsetType] = UNSET
    notice: Raw
    """See ``core/notice.py``."""
    id: Id | UnsetType = UNSET


class Hello(Struct, frozen=True, gc=False, tag_field="type", tag="hello"):
    """Server to peer: the first frame, which tells the peer what server it has reached."""

    server: str
    server_id: str
    version: str


class FeedEntry(Struct, frozen=True, gc=False, tag_field="type", tag="entry"):
    """Server to worker: a message of a page, published here by a client or the server's own code."""

    offset: int
    at: float
    """When it was appended, in seconds since the epoch."""
    origin: str
    sequence: int
    publisher: str
    """The id of the publisher's connection; empty for the server's own code."""
    topic: str
    timestamp: str
    message: Raw


class FeedAck(Struct, frozen=True, gc=False, tag_field="type", tag="ack"):
    """Server to worker: the page is complete. The fields are those of ``Page``."""

    action: Literal["feed"]
    cursor: str
    end: int
    at: float
    missed: int
    restarted: bool
    id: Id | UnsetType = UNSET


PEER_REQUESTS: Final[Requests] = msgspec.json.Decoder(
    Subscribe | Unsubscribe | ForwardedPublish | Resume
)
PUBLISHER_REQUESTS: Final[Requests] = msgspec.json.Decoder(Request | NoticeRequest)
READER_REQUESTS: Final[Requests] = msgspec.json.Decoder(HistoryRequest)
WORKER_REQUESTS: Final[Requests] = msgspec.json.Decoder(Request | FeedRequest)
