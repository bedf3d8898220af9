"""The opcodes of frames (RFC 6455, section 5.2)."""

from typing import Final

from dwsps_channels.protocol.frames import TEXT

__all__ = ["BINARY", "CLOSE", "CONTINUATION", "PING", "PONG", "TEXT"]

CONTINUATION: Final = 0x0
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
