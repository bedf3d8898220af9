"""Close codes, and the frame that carries one (RFC 6455, sections 5.5.1 and 7.4)."""

from typing import Final

from dwsps_channels.connections.websocket.opcodes import CLOSE
from dwsps_channels.protocol.frames import websocket_frame

NORMAL: Final = 1000
PROTOCOL_ERROR: Final = 1002
NO_STATUS: Final = 1005
"""For a close frame without a code; never sent."""
ABNORMAL: Final = 1006
"""For a connection that ended without a close frame; never sent."""
INVALID_DATA: Final = 1007
INTERNAL_ERROR: Final = 1011
SERVICE_RESTART: Final = 1012

# A control frame has at most 125 bytes, and the code takes two of them.
_REASON_BYTES = 123


def is_sendable(code: int) -> bool:
    """Return whether a close frame may carry ``code``: one of the RFC, of IANA's registry, a library's or an application's."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def close_frame(code: int, reason: str = "") -> bytes:
    """Make a close frame; with ``NO_STATUS`` it has no code. A reason that does not fit is cut."""
    if code == NO_STATUS:
        return websocket_frame(CLOSE, b"")
    cut = reason.encode()[:_REASON_BYTES].decode(errors="ignore")
    return websocket_frame(CLOSE, code.to_bytes(2, "big") + cut.encode())
