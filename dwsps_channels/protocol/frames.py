"""Messages as they leave the server: encoded once, shared by every connection that gets them."""

from collections.abc import Sequence
from struct import Struct as Layout
from typing import Final

from msgspec import Struct

TEXT: Final = 0x1
"""The opcode of a text message."""


MAX_PIECE_BYTES: Final = 64 * 1024
"""The most that is joined. A transport takes a piece as a whole, and discards it as a whole."""

# The heads of the frames that are sent all the time.
_SHORT_TEXT = [bytes((0x80 | TEXT, size)) for size in range(126)]
_MEDIUM = Layout(">BBH").pack


class Frame(
    Struct, eq=False, gc=False
):  # a struct because one is made for each ack, and a struct is made fast
    """One outgoing websocket text message.

    Each form is made when the first transport asks for it, and then shared: a publish to a thousand subscribers
    is encoded once.
    """

    data: bytes
    """The message's JSON, as UTF-8."""
    wire: bytes | None = None
    """The result of ``make_wire``, so that a send to a thousand need not call it a thousand times."""
    _text: str | None = None

    @property
    def text(self) -> str:
        """The same as text, for transports that take text."""
        text = self._text
        if text is None:
            text = self._text = self.data.decode()
        return text

    def make_wire(self) -> bytes:
        """Return the same as a websocket frame, for transports that write on the connection itself."""
        data = self.data
        size = len(data)
        if size < 126:
            wire = _SHORT_TEXT[size] + data
        elif size < 1 << 16:
            wire = _MEDIUM(0x80 | TEXT, 126, size) + data
        else:
            wire = websocket_frame(TEXT, data)
        self.wire = wire
        return wire

    def __len__(self) -> int:
        return len(self.data)


class Frames(list[Frame]):
    """Frames that are sent together, in order: joined once, however many connections are sent them. Do not change it."""

    __slots__ = ("_pieces",)

    _pieces: Sequence[bytes]

    def pieces(self) -> Sequence[bytes]:
        """Return the same as websocket frames, joined to pieces of ``MAX_PIECE_BYTES``; a larger frame is one by itself."""
        try:
            return self._pieces
        except AttributeError:
            self._pieces = _joined(self)
            return self._pieces


def _joined(frames: Sequence[Frame]) -> Sequence[bytes]:
    # The frames' own ``wire`` would be as much memory once more.
    pieces: list[bytes] = []
    parts: list[bytes] = []
    size = 0
    for frame in frames:
        wire = frame.wire or websocket_frame(TEXT, frame.data)
        size += len(wire)
        if size > MAX_PIECE_BYTES and parts:
            pieces.append(b"".join(parts))
            parts, size = [], len(wire)
        parts.append(wire)
    if parts:
        pieces.append(b"".join(parts))
    return pieces


def websocket_frame(opcode: int, payload: bytes) -> bytes:
    """Encode a whole message in one frame, as a server sends it: not masked (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 1 << 16:
        return _MEDIUM(0x80 | opcode, 126, size) + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload
