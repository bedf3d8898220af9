"""The messages on the wire: decoded once, encoded once (docs/reference/protocol.md, "Messages")."""

import re
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from dwsps_channels.protocol import surrogates
from dwsps_channels.protocol.depth import is_deeper
from dwsps_channels.protocol.errors import (
    InvalidJSON,
    InvalidMessage,
    MessageTooDeep,
    MessageTooLarge,
    WireError,
)
from dwsps_channels.protocol.frames import Frame
from dwsps_channels.protocol.timestamps import RFC3339, now
from dwsps_channels.protocol.topics import MAX_BYTES

Action = Literal[
    "subscribe", "unsubscribe", "publish", "resume", "authenticate", "feed", "history", "notice"
]

# 53 bits: what a JavaScript client can count to without losing digits.
MAX_INTEGER_ID: Final = 2**53 - 1
MAX_STRING_ID: Final = 64
Id = (
    Annotated[str, Meta(min_length=1, max_length=MAX_STRING_ID)]
    | Annotated[int, Meta(ge=-MAX_INTEGER_ID, le=MAX_INTEGER_ID)]
)

# Room for any cursor that a server makes: what is longer cannot be one.
MAX_CURSOR: Final = 128
Since = Annotated[str, Meta(max_length=MAX_CURSOR)]
Last = Annotated[int, Meta(ge=0, le=MAX_INTEGER_ID)]

MAX_KEY: Final = 64

# Room for any token that fits into a handshake's headers, and for any grant that a server makes.
MAX_TOKEN: Final = 8192
MAX_GRANT: Final = 2048
Grant = Annotated[str, Meta(min_length=1, max_length=MAX_GRANT)]


class Subscribe(Struct, frozen=True, gc=False, tag_field="type", tag="subscribe"):
    """Client to server. At most one of ``since`` and ``last`` is there."""

    action: ClassVar[Action] = "subscribe"
    topic: str
    since: Since | UnsetType = UNSET
    """The cursor from which on messages are replayed."""
    last: Last | UnsetType = UNSET
    """The number of messages to replay, the newest."""
    grant: Grant | UnsetType = UNSET
    """A signed permission for the topic, in place of the policy's."""
    id: Id | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.last is not UNSET and self.since is not UNSET:
            raise InvalidMessage("last", "left out if 'since' is there")


class Resume(Struct, frozen=True, gc=False, tag_field="type", tag="resume"):
    """Client to server: subscribe to all ``topics``, each from the cursor ``since`` on."""

    action: ClassVar[Action] = "resume"
    topic: ClassVar[UnsetType] = UNSET
    since: Since
    topics: list[str]
    grants: dict[str, Grant] | UnsetType = UNSET
    """By topic, as in ``Subscribe``. Those of other topics are ignored."""
    id: Id | UnsetType = UNSET


class Authenticate(Struct, frozen=True, gc=False, tag_field="type", tag="authenticate"):
    """Client to server: a token that tells the user of the connection, or renews the one before."""

    action: ClassVar[Action] = "authenticate"
    topic: ClassVar[UnsetType] = UNSET
    token: Annotated[str, Meta(min_length=1, max_length=MAX_TOKEN)]
    id: Id | UnsetType = UNSET

    def __repr__(self) -> str:
        # Reports of errors have the values of variables.
        return f"Authenticate(token='…', id={self.id!r})"


class Unsubscribe(Struct, frozen=True, gc=False, tag_field="type", tag="unsubscribe"):
    """Client to server."""

    action: ClassVar[Action] = "unsubscribe"
    topic: str
    id: Id | UnsetType = UNSET


class Publish(Struct, frozen=True, gc=False, rename="camel", tag_field="type", tag="publish"):
    """Client to server. ``message`` is the JSON as it was sent, byte for byte."""

    action: ClassVar[Action] = "publish"
    topic: str
    message: Raw
    timestamp: Annotated[str, Meta(pattern=RFC3339)] | UnsetType = UNSET
    id: Id | UnsetType = UNSET
    from_peer_server: bool = False
    """Only peers may set it."""
    key: Annotated[str, Meta(min_length=1, max_length=MAX_KEY)] = ""
    """Makes the publish safe to send again; empty: it has no key."""


class Delivery(
    Struct,
    frozen=True,
    gc=False,
    kw_only=True,
    omit_defaults=True,
    rename="camel",
    tag_field="type",
    tag="publish",
):
    """Server to client: a published message, and the subscription (``context``) because of which it comes."""

    timestamp: str
    topic: str
    message: Raw
    from_peer_server: bool = False
    context: str
    offset: int | None = None
    """Its place in the server's log; ``None``: the broker has no log."""


class TopicError(Struct, frozen=True, gc=False):
    """The error of one topic of a resume; the fields are those of ``Error``."""

    code: str
    reason: str
    retryable: bool


class Resumed(Struct, frozen=True, gc=False, kw_only=True):
    """The outcome of one topic of a resume. It has one of the fields."""

    recovered: bool | UnsetType = UNSET
    error: TopicError | UnsetType = UNSET


class Ack(Struct, frozen=True, gc=False, kw_only=True, rename="camel", tag_field="type", tag="ack"):
    """Server to client: the action took effect."""

    action: Action
    timestamp: str
    topic: str | UnsetType = UNSET
    id: Id | UnsetType = UNSET
    cursor: str | UnsetType = UNSET
    """Everything up to it that the session is subscribed to was sent before this frame."""
    recovered: bool | UnsetType = UNSET
    """Of a subscribe with ``since``: nothing is missing."""
    topics: dict[str, Resumed] | UnsetType = UNSET
    """Of a resume."""
    offset: int | UnsetType = UNSET
    """Of a publish: its place in the log, if there is one and the message is not a peer's duplicate."""
    expires_in: int | UnsetType = UNSET
    """Of an authenticate: the seconds until the token expires, if it does."""


class Expiring(Struct, frozen=True, gc=False, rename="camel", tag_field="type", tag="expiring"):
    """Server to client: the token expires soon, and the connection ends then, if the client does not authenticate again."""

    timestamp: str
    expires_in: int
    """In seconds."""


class Unsubscribed(Struct, frozen=True, gc=False, tag_field="type", tag="unsubscribed"):
    """Server to client: the server has ended the subscription to ``topic``. ``code`` and ``reason`` are those of an error."""

    timestamp: str
    topic: str
    code: str
    reason: str


class Reset(Struct, frozen=True, gc=False, tag_field="type", tag="reset"):
    """Server to client: the log lost its continuity. What comes after ``cursor`` is sent."""

    timestamp: str
    cursor: str


class Error(Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="error"):
    """Server to client: the action was not performed, or the connection is about to be closed."""

    code: str
    reason: str
    retryable: bool
    timestamp: str
    action: Action | UnsetType = UNSET
    topic: str | UnsetType = UNSET
    id: Id | UnsetType = UNSET
    cursor: str | UnsetType = UNSET
    """As in ``Ack``, before a close that discards nothing."""


Request = Subscribe | Unsubscribe | Publish | Resume | Authenticate

Requests = msgspec.json.Decoder[Any]
"""A decoder of the requests that a connection may send. Each has ``action``, ``topic`` and ``id``."""

CLIENT_REQUESTS: Final[Requests] = msgspec.json.Decoder(Request)

encode_json = msgspec.json.Encoder().encode


def decode(frame: str | bytes, limit: int, depth: int, requests: Requests = CLIENT_REQUESTS) -> Any:
    """Decode the request in one websocket message, text or binary, of at most ``limit`` bytes.

    ``depth`` is how deep the message in it may be nested. ``requests`` says what a request may be.

    Raises:
        InvalidJSON: not UTF-8, or not JSON (NaN is not JSON).
        InvalidMessage: JSON, but none of ``requests``.
        MessageTooDeep: nested more deeply than ``depth``.
        MessageTooLarge: longer than ``limit``.
    """
    try:
        # A binary message is checked as a whole: the decoder skips over values that it keeps raw.
        data = frame if isinstance(frame, str) else str(frame, "utf-8")
        size = len(data) if data.isascii() else len(data.encode())
    except UnicodeError:
        raise InvalidJSON("not UTF-8") from None
    if size > limit:
        raise MessageTooLarge(size, limit)
    # The request itself is a level. Nearly all have no room for the brackets of so many, or have fewer.
    if (
        size > 2 * depth
        and data.count("{") + data.count("[") > depth
        and is_deeper(data, depth + 1)
    ):
        raise MessageTooDeep(depth)
    try:
        return requests.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        refusal = _refusal(error, depth)
    if not isinstance(refusal, InvalidJSON):
        raise refusal
    # Perhaps because of lone surrogates alone.
    try:
        request = surrogates.decode_masked(requests, data)
    except (msgspec.DecodeError, RecursionError) as error:
        # Where in the frame that is, counted in what stands for it, would mislead.
        raise _refusal(error, depth, with_place=False) from None
    if request is None:
        raise refusal
    _refuse_surrogates(request)
    return request


def _refuse_surrogates(request: Any) -> None:
    """Raise ``InvalidMessage`` if ``request`` has surrogates in a text that is sent on, or back."""
    if isinstance(request.id, str) and not surrogates.is_text(request.id):
        raise InvalidMessage("id", _EXPECTED["id"])
    if isinstance(request, Publish) and not surrogates.is_text(request.key):
        raise InvalidMessage("key", _EXPECTED["key"])
    if isinstance(request, Resume):
        if not all(map(surrogates.is_text, request.topics)):
            raise InvalidMessage("topics", _EXPECTED["topics"])
        if request.grants and not all(map(surrogates.is_text, request.grants.values())):
            raise InvalidMessage("grants", _EXPECTED["grants"])
    if isinstance(request, Subscribe) and request.grant and not surrogates.is_text(request.grant):
        raise InvalidMessage("grant", _EXPECTED["grant"])
    if isinstance(request, Authenticate) and not surrogates.is_text(request.token):
        raise InvalidMessage("token", _EXPECTED["token"])


def encode(message: Struct) -> Frame:
    """Return the frame that carries ``message``."""
    return Frame(encode_json(message))


class Subject(NamedTuple):
    """The subject of a reply, as far as it is known."""

    action: Action | UnsetType = UNSET
    topic: str | UnsetType = UNSET
    id: str | int | UnsetType = UNSET


def error_frame(error: WireError, subject: Subject | None = None, cursor: str = "") -> Frame:
    """Return the frame that reports ``error``. ``cursor`` is for the last frame before a close."""
    action, topic, id = subject or Subject()
    return encode(
        Error(
            code=error.code,
            reason=error.reason,
            retryable=error.retryable,
            timestamp=now(),
            action=action,
            topic=topic,
            id=id,
            cursor=cursor or UNSET,
        )
    )


_EXPECTED = {
    "type": "one of 'subscribe', 'unsubscribe', 'publish', 'resume', 'authenticate'",
    "topic": "a string",
    "message": "there: any JSON value, null included",
    "timestamp": "a time as in RFC 3339",
    "id": f"a string of 1 to {MAX_STRING_ID} characters or an integer of at most 53 bits",
    "fromPeerServer": "true or false",
    "since": f"a cursor: a string of at most {MAX_CURSOR} characters",
    "last": "an integer from 0 to 2^53 - 1",
    "cursor": f"a cursor: a string of at most {MAX_CURSOR} characters",
    "at": "a number of seconds",
    "messages": "an integer above 0",
    "size": "an integer above 0",
    "wait": "true or false",
    "topics": "an array of strings of Unicode characters",
    "key": f"a string of 1 to {MAX_KEY} characters",
    "token": f"a string of 1 to {MAX_TOKEN} characters",
    "grant": f"a string of 1 to {MAX_GRANT} characters",
    "grants": f"an object of strings of 1 to {MAX_GRANT} characters",
}


def _refusal(error: Exception, depth: int, *, with_place: bool = True) -> WireError:
    """Say in our words what the decoder found."""
    if isinstance(error, msgspec.ValidationError):
        return _invalid_message(str(error))
    if isinstance(error, RecursionError):
        return MessageTooDeep(depth)  # and not even JSON
    problem = str(error).removeprefix("JSON is malformed: ")
    return InvalidJSON(problem if with_place else problem.partition(" (byte")[0])


def _invalid_message(problem: str) -> InvalidMessage:
    """Say in our words what the decoder found: it names the field in back quotes, a path or a bare name."""
    for field, expected in _EXPECTED.items():
        # A fault within a field has its place: "`$.topics[...]`".
        if f"`$.{field}`" in problem or f"`$.{field}[" in problem or f"field `{field}`" in problem:
            return InvalidMessage(field, expected)
    return InvalidMessage(None, "a JSON object")


class _Echo(Struct):
    type: Raw | UnsetType = UNSET
    topic: Raw | UnsetType = UNSET
    id: Raw | UnsetType = UNSET


_echoes = msgspec.json.Decoder(_Echo)

# What is larger is not read for the sake of an error, nor is what is no JSON: a look at both ends has to do.
_MAX_READ: Final = 256 * 1024
_EXCERPT: Final = 1024


def subject_of(frame: str | bytes) -> Subject:
    """Return what an invalid request says of itself, so that its sender can match the error."""
    if len(frame) <= _MAX_READ:
        with suppress(msgspec.DecodeError, RecursionError):
            told = surrogates.decode(_echoes, _escaped(frame))
            return Subject(
                decode_part(told.type, Action),
                decode_part(told.topic, _EchoedTopic),
                decode_part(told.id, Id),
            )
    return subject_of_excerpt(_escaped(frame[:_EXCERPT]), _escaped(frame[-_EXCERPT:]))


def _escaped(text: str | bytes) -> bytes:
    """Return ``text`` with a lone surrogate's escape for each byte that is no UTF-8: JSON that can be read, if it is else."""
    characters = text if isinstance(text, str) else str(text, "utf-8", "surrogateescape")
    return characters.encode("utf-8", "backslashreplace")


# A field at the beginning of an object, or several at its end. The latter are in JSON's top-level object, and not in a
# string, since a quote within a string has a backslash before it.
_FIRST_FIELD = re.compile(rb'\s*[{,]\s*"(\w{1,32})"\s*:\s*("(?:[^"\\]|\\.)*"|-?[0-9]+)(?=\s*,)')
_LAST_FIELDS = re.compile(
    rb'(?:,\s*"\w{1,32}"\s*:\s*(?:"(?:[^"\\]|\\.)*"|-?[0-9]+|true|false|null)\s*)+}\s*\Z'
)


def subject_of_excerpt(head: bytes, tail: bytes) -> Subject:
    """Return as ``subject_of`` does, if only the first and the last bytes of the request are known."""
    found: dict[bytes, bytes] = {}
    field = _FIRST_FIELD.match(head)
    while field is not None:
        found[field[1]] = field[2]
        field = _FIRST_FIELD.match(head, field.end())
    if last := _LAST_FIELDS.search(tail):
        try:
            told = msgspec.json.decode(b"{" + last[0][1:], type=_Echo)
        except (msgspec.MsgspecError, UnicodeError):
            told = _Echo()
        for name in ("type", "topic", "id"):
            if (raw := getattr(told, name)) is not UNSET:
                found[name.encode()] = bytes(raw)
    return Subject(
        decode_part(Raw(found.get(b"type", b"")), Action),
        decode_part(Raw(found.get(b"topic", b"")), _EchoedTopic),
        decode_part(Raw(found.get(b"id", b"")), Id),
    )


# A topic that is too long is not sent back.
_EchoedTopic = Annotated[str, Meta(max_length=MAX_BYTES)]


def decode_part(raw: Raw | UnsetType, type: Any) -> Any:
    if raw is UNSET:
        return UNSET
    try:
        return msgspec.json.decode(raw, type=type)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return UNSET
