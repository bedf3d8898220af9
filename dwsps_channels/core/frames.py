"""A message as it leaves the server: encoded once, shared by every connection that gets it."""

from typing import Final

TEXT: Final = 0x1
"""The opcode of a text message."""


class Frame:
    """One outgoing websocket text message.

    Each form is made when the first transport asks for it, and then shared: a publish to a thousand subscribers
    is encoded once.
    """

    __slots__ = ("_text", "data", "wire")

    def __init__(self, data: bytes) -> None:
        self.data = data
        """The message's JSON, as UTF-8."""
        self._text: str | None = None
        self.wire: bytes | None = None
        """What ``make_wire`` has made, so that who sends to a thousand need not call it a thousand times."""

    @property
    def text(self) -> str:
        """The same as text, for doors that take text."""
        text = self._text
        if text is None:
            text = self._text = self.data.decode()
        return text

    def make_wire(self) -> bytes:
        """The same as a websocket frame, for doors that write on the connection itself."""
        wire = self.wire = websocket_frame(TEXT, self.data)
        return wire

    def __len__(self) -> int:
        return len(self.data)


def websocket_frame(opcode: int, payload: bytes) -> bytes:
    """A whole message in one frame, as a server sends it: not masked (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 1 << 16:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload
