"""Messages that are larger than what is kept of one: skipped as they come."""

import random
from collections.abc import Iterable
from itertools import pairwise

from dwsps_channels.connections.websocket.events import Fragment, Oversized, Ping, Violation
from dwsps_channels.connections.websocket.reader import MAX_FRAGMENTS, Reader
from dwsps_channels.connections.websocket.skipping import EXCERPT_BYTES
from tests.connections.fastlane.raw import BINARY, CONTINUATION, PING, TEXT, frame

KEPT = 1000
LIMIT = 100_000


def read(pieces: Iterable[bytes]) -> list[object]:
    """Return the output of a reader that keeps ``KEPT`` bytes, up to the first violation."""
    reader, found = Reader(LIMIT), list[object]()
    reader.keep_at_most(KEPT)
    try:
        for piece in pieces:
            reader.feed(piece)
            while (message := reader.next()) is not None:
                if not isinstance(message, Fragment):
                    found.append(message)
            # Never more than what is kept, and the header of one frame.
            assert len(reader.unread) <= KEPT + 14
    except Violation as violation:
        found.append((violation.code, violation.reason))
    return found


def oversized(payload: bytes) -> Oversized:
    return Oversized(len(payload), payload[:EXCERPT_BYTES], payload[-EXCERPT_BYTES:])


def cut(payload: bytes, chance: random.Random) -> list[bytes]:
    places = sorted(chance.randrange(len(payload) + 1) for _ in range(chance.randrange(6)))
    return [payload[start:end] for start, end in pairwise([0, *places, len(payload)])]


def fragments(payloads: list[bytes], chance: random.Random) -> bytes:
    """One message, with a ping before each fragment but the first."""
    data = b""
    for number, payload in enumerate(payloads):
        opcode = BINARY if number == 0 else CONTINUATION
        is_last = number == len(payloads) - 1
        data += frame(PING, b"!") if number else b""
        data += frame(opcode, payload, fin=is_last, mask=chance.randbytes(4))
    return data


def test_whole_or_in_fragments_and_wherever_it_is_cut() -> None:
    chance = random.Random(1009)
    for _ in range(300):
        payloads = [
            chance.randbytes(chance.choice([0, 1, 600, KEPT, KEPT + 1, 3000, 70_000]))
            for _ in range(3)
        ]
        parts = [cut(payload, chance) for payload in payloads]
        data = b"".join(fragments(part, chance) for part in parts)
        expected: list[object] = []
        for part, payload in zip(parts, payloads, strict=True):
            expected += [Ping(b"!")] * (len(part) - 1)
            expected.append(payload if len(payload) <= KEPT else oversized(payload))
        sizes = iter(lambda: chance.choice([1, 5, 100, 5000]), None)
        pieces, at = [], 0
        while at < len(data):
            pieces.append(data[at : (at := at + next(sizes))])
        assert read(pieces) == expected


def test_the_server_s_own_limit_still_fails_the_connection() -> None:
    begun = frame(TEXT, b"x" * (LIMIT - 10), fin=False)
    reason = (1009, f"a message may have {LIMIT} bytes")
    assert read([begun, frame(CONTINUATION, b"x" * 11)]) == [reason]
    header = bytes([0x81, 0xFF]) + (LIMIT + 1).to_bytes(8, "big")
    assert read([header]) == [reason]


def test_fragments_of_nothing_are_counted_while_they_are_skipped() -> None:
    begun = frame(TEXT, b"x" * (KEPT + 1), fin=False)
    assert read([begun, frame(CONTINUATION, fin=False) * MAX_FRAGMENTS]) == [
        (1009, f"a message may have {MAX_FRAGMENTS} fragments")
    ]
