"""A message that is too large to be kept, as it comes."""

from typing import Final

from dwsps_channels.connections.websocket.mask import apply_mask

# What is kept of either end: enough for its sender to be told which message it was.
EXCERPT_BYTES: Final = 512


class SkippedMessage:
    """Counts the bytes of a message, and keeps its first and its last ``EXCERPT_BYTES``."""

    __slots__ = ("_mask", "head", "is_last", "left", "size", "tail")

    def __init__(self, begun: bytes | bytearray) -> None:
        """Begin with what was kept of the message so far."""
        self.size = len(begun)
        """Bytes so far."""
        self.head = begun[:EXCERPT_BYTES]
        self.tail = begun[-EXCERPT_BYTES:]
        self.left = 0
        """Bytes of the current frame that are still to come."""
        self.is_last = False
        """Set if the current frame ends the message."""
        self._mask = b""

    def begin_frame(self, length: int, mask: bytes, *, is_last: bool) -> None:
        """Begin a frame of ``length`` bytes."""
        self.left = length
        self.is_last = is_last
        self._mask = mask

    def skip(self, data: bytes | bytearray) -> None:
        """Skip ``data``, the next bytes of the frame, still masked."""
        size = len(data)
        if not size:
            return
        payload = apply_mask(data, self._mask)
        turn = size % 4
        self._mask = self._mask[turn:] + self._mask[:turn]
        self.head += payload[: EXCERPT_BYTES - len(self.head)]
        self.tail = (self.tail + payload)[-EXCERPT_BYTES:]
        self.size += size
        self.left -= size
