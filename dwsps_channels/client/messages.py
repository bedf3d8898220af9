"""Messages from a server: those that readers get, and the frames that carry them."""

import json
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from dwsps_channels.protocol import surrogates
from dwsps_channels.protocol.errors import Forbidden, RateLimited, Unauthorized, Unavailable
from dwsps_channels.protocol.messages import Action


class Message(Struct, frozen=True):
    """A message that a subscription received."""

    topic: str
    """The topic to which it was published."""
    context: str
    """The subscription that matched: ``topic``, or one of its parents."""
    message: Any
    """The published value: any JSON value."""
    timestamp: str
    """RFC 3339: the publisher's time, else the server's. Empty if a dwsps 1.0.1 server sent none."""
    from_peer_server: bool
    """True if it was published on another server."""
    raw: bytes
    """The published JSON, byte for byte."""
    offset: int | None = None
    """Its place in the server's log; ``None``: the server has none."""


class Ack(Struct, frozen=True):
    """The server's answer to a publish that it took."""

    timestamp: str
    """The server's time, RFC 3339."""
    offset: int | None
    """The message's place in the server's log; ``None``: the server has none."""


class InvalidFrame(ValueError):
    """The server sent something that is not a frame of the protocol."""


class Incoming(Struct, frozen=True, gc=False, rename="camel"):
    """A frame of any type. The fields that a client relies on are checked; the others are as the server sent them."""

    type: str
    topic: Any = None
    context: Any = None
    message: Raw = Raw(b"null")
    timestamp: Any = None
    from_peer_server: Any = False
    action: Any = None
    code: Any = None
    reason: Any = None
    retryable: Any = False
    id: Any = None
    offset: Any = None
    cursor: Any = None
    recovered: Any = None
    topics: Any = None
    expires_in: Any = None

    @property
    def place(self) -> int | None:
        """The offset, if the frame has one."""
        return self.offset if type(self.offset) is int and self.offset > 0 else None

    @property
    def ack(self) -> Ack:
        """The answer to a publish, for the caller."""
        return Ack(self.timestamp if isinstance(self.timestamp, str) else "", self.place)

    @property
    def reason_text(self) -> str:
        """The reason of an error, for people; empty if it has none."""
        return self.reason if isinstance(self.reason, str) else ""

    @property
    def is_farewell(self) -> bool:
        """True for an error about the connection, which the server is about to close, and not about a request."""
        nameless = self.id is None and self.action is None and self.topic is None
        return self.type == "error" and nameless and self.code in _FAREWELLS

    @property
    def subscription(self) -> str:
        """The topic of the subscription that a delivery is for: its ``context``, if it has one."""
        context: str = self.context if isinstance(self.context, str) else self.topic
        return context

    def delivery(self) -> Message:
        """Return the message for readers.

        Raises:
            InvalidFrame: the message cannot be read: it is no UTF-8, or nested too deeply.
        """
        raw = bytes(self.message)
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InvalidFrame(f"a message that cannot be read: {type(error).__name__}") from None
        return Message(
            topic=self.topic,
            context=self.subscription,
            message=value,
            timestamp=self.timestamp if isinstance(self.timestamp, str) else "",
            from_peer_server=self.from_peer_server is True,
            raw=raw,
            offset=self.place,
        )


_FAREWELLS: Final = {error.code for error in (Unavailable, Forbidden, RateLimited, Unauthorized)}

# The fields, texts, without which a frame of that type says nothing.
_NEEDED: Final = {
    "publish": ("topic",),
    "ack": ("action",),
    "error": ("code",),
    "unsubscribed": ("topic", "code"),
}

_frames: msgspec.json.Decoder[Incoming] = msgspec.json.Decoder(Incoming)


def decode(data: bytes) -> Incoming:
    """Decode the frame in one websocket message.

    Raises:
        InvalidFrame: no JSON, no object, or without what its type needs.
    """
    try:
        frame = surrogates.decode(_frames, data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidFrame(f"not a frame: {type(error).__name__}") from None
    for needed in _NEEDED.get(frame.type, ()):
        if not isinstance(getattr(frame, needed), str):
            raise InvalidFrame(f"a frame of type '{frame.type}' without '{needed}'")
    return frame


def encode(action: Action, id: int, topic: str, payload: bytes = b"") -> bytes:
    """Encode a request about a topic, or about several (empty). ``payload`` has the fields that only this action has."""
    subject = b',"topic":%s' % to_json(topic) if topic else b""
    return b'{"type":"%s","id":%d%s%s}' % (action.encode(), id, subject, payload)


def publish_payload(message: bytes, timestamp: str, key: str = "") -> bytes:
    """Return the fields that only a publish has; ``message`` is JSON."""
    fields = b',"timestamp":"%s","message":%s' % (timestamp.encode(), message)
    return fields + b',"key":%s' % to_json(key) if key else fields


def to_json(value: object) -> bytes:
    """Encode a value as JSON, in UTF-8.

    Raises:
        TypeError, ValueError, RecursionError: there is none. NaN and infinities have none.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A lone surrogate has no UTF-8, but an escape that JSON has as well.
    return text.encode("utf-8", "backslashreplace")
