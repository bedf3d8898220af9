"""Frames as a client might send them: right ones, and others."""

import random

from tests.connections.fastlane.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    frame,
)

REQUESTS = [
    b'{"type":"subscribe","topic":"a.b"}',
    b'{"type":"unsubscribe","topic":"a.b"}',
    b'{"type":"publish","topic":"a.b","message":[1,2,3]}',
    b'{"type":"publish","topic":"a..b","message":null,"id":1}',
    b'{"type":"feed"}',
    b"[[[[",
]


def valid(chance: random.Random) -> bytes:
    """A frame, or all frames of a message, as they should be."""
    mask = chance.randbytes(4)
    payload = chance.choice(
        [*REQUESTS, b"", "☃".encode() * chance.randrange(60), b"x" * chance.randrange(300)]
    )
    match chance.randrange(8):
        case 0:
            return frame(chance.choice([PING, PONG]), payload[:125], mask=mask)
        case 1:
            return frame(BINARY, chance.randbytes(chance.randrange(200)), mask=mask)
        case 2:
            cut = chance.randrange(len(payload) + 1)
            return b"".join(
                [
                    frame(TEXT, payload[:cut], fin=False, mask=mask),
                    frame(PING, b"between"),
                    frame(CONTINUATION, payload[cut:], mask=mask),
                ]
            )
        case _:
            return frame(TEXT, payload, mask=mask)


def mutated(chance: random.Random) -> bytes:
    """Something between a frame and noise."""
    match chance.randrange(5):
        case 0:
            return chance.randbytes(chance.randrange(1, 100))
        case 1:  # a header that may say anything, and a mask
            return bytes([chance.randrange(256), chance.randrange(256)]) + chance.randbytes(40)
        case 2:  # of the right form, with the wrong content
            opcode = chance.choice([TEXT, CONTINUATION, CLOSE, PING, chance.randrange(16)])
            return frame(opcode, chance.randbytes(chance.randrange(130)), fin=chance.random() < 0.7)
        case 3:  # a length that is not the payload's
            length = chance.choice([b"\x7e", b"\x7f"]) + chance.randbytes(8)
            return frame(BINARY, chance.randbytes(20), length=length)
        case _:  # a bit turned, a byte lost or one too many
            spoilt = bytearray(valid(chance))
            at = chance.randrange(len(spoilt))
            match chance.randrange(3):
                case 0:
                    spoilt[at] ^= 1 << chance.randrange(8)
                case 1:
                    del spoilt[at]
                case _:
                    spoilt.insert(at, chance.randrange(256))
            return bytes(spoilt)
