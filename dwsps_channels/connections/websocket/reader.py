"""The frames of a client: bytes in, messages and control frames out (RFC 6455, section 5). No I/O."""

from typing import Final

from dwsps_channels.connections.websocket.close import (
    INVALID_DATA,
    NO_STATUS,
    PROTOCOL_ERROR,
    is_sendable,
)
from dwsps_channels.connections.websocket.events import (
    Close,
    Control,
    Fragment,
    Message,
    Oversized,
    Ping,
    Pong,
    Violation,
)
from dwsps_channels.connections.websocket.mask import apply_mask
from dwsps_channels.connections.websocket.opcodes import PING, PONG, TEXT
from dwsps_channels.connections.websocket.skipping import SkippedMessage
from dwsps_channels.protocol.close_codes import TOO_BIG

# A message may be sent without end, a fragment of no bytes at a time.
MAX_FRAGMENTS: Final = 65_536

# Of a small frame: opcode, length and mask.
HEAD_BYTES: Final = 6

_FIN = 0x80
_RESERVED_BITS = 0x70
_OPCODE = 0x0F
_MASKED = 0x80
_WHOLE_TEXT = _FIN | TEXT

_NOT_UTF8 = "a text message is not UTF-8"

_FRAGMENT: Final = Fragment()


class Reader:
    """Takes bytes, by ``feed``, and gives out messages and control frames one by one, by ``next``.

    After a ``Violation`` or a ``Close`` it must not be used any more.

    ``limit`` is the most bytes that a message may have, in one frame or all of its fragments together. ``keep_at_most``
    lowers what is held of one: a larger message is skipped as it comes.
    """

    __slots__ = (
        "_at",
        "_fragments",
        "_kept",
        "_limit",
        "_message",
        "_opcode",
        "_oversized",
        "_room",
        "heard",
        "unread",
    )

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # The most bytes that are kept of a message, and how many of them the message that has begun leaves.
        self._kept = limit
        self._room = limit
        # A bytearray where it has to grow, so that a large frame that comes in pieces is not copied with each of them.
        self.unread: bytes | bytearray = b""
        """Ends with what was not given out yet; empty if there is nothing."""
        self._at = 0  # where that begins
        # The message that has begun and not ended: what it is, 0 for none, its bytes and how many fragments they are.
        self._opcode = 0
        self._message: bytearray | None = None
        self._fragments = 0
        # The message that has begun and is larger than what is kept.
        self._oversized: SkippedMessage | None = None
        # The handshake counts as the first.
        self.heard = True
        """Set by each whole frame: a sign of life. The caller resets it."""

    def keep_at_most(self, kept: int) -> None:
        """Give out larger messages as ``Oversized``."""
        self._room -= self._kept - min(kept, self._limit)
        self._kept = min(kept, self._limit)

    def feed(self, data: bytes) -> None:
        """Take bytes from the client."""
        rest = self.unread
        if not rest:
            self.unread = data
        elif isinstance(rest, bytearray):
            rest += data
        else:
            grown = bytearray(memoryview(rest)[self._at :])
            grown += data
            self.unread = grown
            self._at = 0

    def next(self) -> Message | Control | Fragment | Oversized | None:
        """Return the next whole message (text as ``str``, binary as ``bytes``) or control frame; ``None``: more has to come.

        One call reads one frame at most, so a message in fragments takes several calls, each with a ``Fragment``.

        Raises:
            Violation: nothing is to be read any more.
        """
        if self._oversized is not None and self._oversized.left:
            return self._skip(self._oversized)
        data, at = self.unread, self._at
        size = len(data)
        if size - at < 2:
            return self._wait()
        first, second = data[at], data[at + 1]
        # By far the most frames are whole text messages: they pass with one comparison.
        if first != _WHOLE_TEXT or self._opcode:
            self._check(first, second)
        if second < _MASKED:
            raise Violation(PROTOCOL_ERROR, "a frame is not masked")
        length = second - _MASKED
        start = at + 6
        if length == 126:
            if size - at < 4:
                return self._wait()
            length = data[at + 2] << 8 | data[at + 3]
            if length < 126:
                raise Violation(PROTOCOL_ERROR, "a length takes more bytes than it needs")
            start = at + 8
        elif length == 127:
            if size - at < 10:
                return self._wait()
            length = int.from_bytes(data[at + 2 : at + 10], "big")
            if length < 1 << 16 or length >= 1 << 63:
                raise Violation(PROTOCOL_ERROR, "a length takes more bytes than it may")
            start = at + 14
        if length > self._room and not first & 0x08:
            # Rejected by its length, before any of it is held.
            self._check_size(length)
            if start > size:
                return self._wait()
            self._at = start
            return self._skip(self._outgrow(first, length, data[start - 4 : start]))
        end = start + length
        if end > size:
            return self._wait()
        payload = apply_mask(data[start:end], data[start - 4 : start])
        if end == size:
            self.unread, end = b"", 0
        self._at = end
        self.heard = True
        if first == _WHOLE_TEXT:
            # As ``_text``, without the call.
            try:
                return payload.decode()
            except UnicodeDecodeError:
                raise Violation(INVALID_DATA, _NOT_UTF8) from None
        if first & 0x08:
            return _control(first & _OPCODE, payload)
        return self._fragment(first, payload)

    def _check(self, first: int, second: int) -> None:
        """Check the first two bytes of a frame, before the rest has come."""
        if first & _RESERVED_BITS:
            raise Violation(PROTOCOL_ERROR, "a reserved bit is set, and no extension was agreed on")
        opcode = first & _OPCODE
        match opcode:
            case 0x8 | 0x9 | 0xA:
                if not first & _FIN:
                    raise Violation(PROTOCOL_ERROR, "a control frame is fragmented")
                if second & 0x7F > 125:
                    raise Violation(PROTOCOL_ERROR, "a control frame has more than 125 bytes")
            case 0x0:
                if not self._opcode:
                    raise Violation(PROTOCOL_ERROR, "a fragment continues no message")
            case 0x1 | 0x2:
                if self._opcode:
                    raise Violation(PROTOCOL_ERROR, "a message begins within another")
            case _:
                raise Violation(PROTOCOL_ERROR, f"opcode {opcode} is reserved")

    def _fragment(self, first: int, payload: bytes) -> Message | Fragment:
        """Add a frame to its message. Return the message if the frame ends it."""
        if self._opcode:
            assert self._message is not None
            message = self._message
            self._count_fragment()
            message += payload
            if not first & _FIN:
                self._room -= len(payload)
                return _FRAGMENT
            payload = bytes(message)
            opcode = self._opcode
            self._end_message()
        else:
            opcode = first & _OPCODE
            if not first & _FIN:
                self._opcode, self._message, self._fragments = opcode, bytearray(payload), 1
                self._room -= len(payload)
                return _FRAGMENT
        return _text(payload) if opcode == TEXT else payload

    def _count_fragment(self) -> None:
        self._fragments += 1
        if self._fragments > MAX_FRAGMENTS:
            raise Violation(TOO_BIG, f"a message may have {MAX_FRAGMENTS} fragments")

    def _end_message(self) -> None:
        self._opcode, self._message, self._oversized = 0, None, None
        self._room = self._kept

    def _check_size(self, length: int) -> None:
        """Check that a frame of ``length`` bytes leaves its message within the limit."""
        begun = self._oversized.size if self._oversized is not None else len(self._message or b"")
        if begun + length > self._limit:
            raise Violation(TOO_BIG, f"a message may have {self._limit} bytes")

    def _outgrow(self, first: int, length: int, mask: bytes | bytearray) -> SkippedMessage:
        """Begin with a frame for which the message has no room."""
        oversized = self._oversized
        if oversized is None:
            oversized = self._oversized = SkippedMessage(self._message or b"")
            if not self._opcode:
                self._opcode, self._fragments = first & _OPCODE, 0
            # From here on, every frame of this message is skipped, an empty one too.
            self._message, self._room = None, -1
        self._count_fragment()
        oversized.begin_frame(length, bytes(mask), is_last=bool(first & _FIN))
        return oversized

    def _skip(self, oversized: SkippedMessage) -> Oversized | Fragment | None:
        """Throw away what has come of a frame. Return the message if that ends it; ``None``: more of the frame has to come."""
        data, at = self.unread, self._at
        end = min(at + oversized.left, len(data))
        oversized.skip(data[at:end])
        if end == len(data):
            self.unread, end = b"", 0
        self._at = end
        if oversized.left:
            return None
        self.heard = True
        if not oversized.is_last:
            return _FRAGMENT
        self._end_message()
        return Oversized(oversized.size, bytes(oversized.head), bytes(oversized.tail))

    def _wait(self) -> Fragment | None:
        """Keep the beginning of a frame until more has come, and give ``None``."""
        rest, at = self.unread, self._at
        if isinstance(rest, bytearray):
            del rest[:at]
        elif at:
            self.unread = bytearray(memoryview(rest)[at:])
        self._at = 0
        return None


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise Violation(INVALID_DATA, _NOT_UTF8) from None


def _control(opcode: int, payload: bytes) -> Control:
    if opcode == PING:
        return Ping(payload)
    if opcode == PONG:
        return Pong(payload)
    if not payload:
        return Close(NO_STATUS, "")
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not is_sendable(code):
        raise Violation(PROTOCOL_ERROR, "a close frame has no valid code")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise Violation(INVALID_DATA, "a close frame's reason is not UTF-8") from None
