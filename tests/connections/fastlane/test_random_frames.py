"""Whatever a client sends, the server lives, and says nothing of it."""

import random
import socket

from dwsps_channels.connections.websocket.events import Fragment, Violation
from dwsps_channels.connections.websocket.reader import Reader
from tests.connections.fastlane.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    frame,
    raw_client,
)
from tests.processes import Server

FRAMES = 100_000
CONNECTIONS = 500

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


def test_random_frames_leave_the_server_alive_and_silent(server: Server) -> None:
    chance = random.Random(6455)
    each = FRAMES // CONNECTIONS
    pool = [valid(chance) for _ in range(2000)]
    for number in range(CONNECTIONS):
        with raw_client(server.port) as client:
            client.open(("/pubsub/", "/echo/")[number % 2])
            # Most of them right, so that what is not meets a connection in any state.
            sent = chance.choices(pool, k=each - 10) + [mutated(chance) for _ in range(10)]
            try:
                client.send(b"".join(sent))
                client.socket.shutdown(socket.SHUT_WR)
                client.rest()
            except (BrokenPipeError, ConnectionResetError):
                pass  # it had enough
    with raw_client(server.port) as client:
        client.open("/echo/")
        assert client.is_alive()
    assert server.exit_status is None
    assert "Traceback" not in server.log
    assert "ERROR" not in server.log


def test_random_bytes_are_messages_or_violations_and_nothing_else() -> None:
    chance = random.Random(5566)
    codes, messages = list[int](), 0
    for _ in range(20_000):
        reader = Reader(1000)
        try:
            for _ in range(5):
                reader.feed((mutated if chance.random() < 0.2 else valid)(chance))
                while reader.next() is not None:
                    messages += 1
        except Violation as violation:
            codes.append(violation.code)
    assert set(codes) == {1002, 1007, 1009}
    assert len(codes) > 1000
    assert messages > 10_000


def test_it_does_not_matter_where_bytes_are_cut() -> None:
    chance = random.Random(7)
    for _ in range(500):
        data = b"".join(valid(chance) for _ in range(10)) + mutated(chance)
        assert read([data]) == read(pieces(data, chance))


def pieces(data: bytes, chance: random.Random) -> list[bytes]:
    found = []
    while data:
        size = chance.choice([1, 1, 2, 5, 100])
        found.append(data[:size])
        data = data[size:]
    return found


def read(data: list[bytes]) -> list[object]:
    """All that a reader makes of it, to the first violation."""
    reader, found = Reader(10_000), list[object]()
    try:
        for piece in data:
            reader.feed(piece)
            while (message := reader.next()) is not None:
                if not isinstance(message, Fragment):
                    found.append(message)
    except Violation as violation:
        found.append((violation.code, violation.reason))
    return found
