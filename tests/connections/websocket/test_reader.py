"""The reader, with random bytes: ``tests/connections/fastlane/test_rfc6455.py`` has the cases of the RFC."""

import random

from dwsps_channels.connections.websocket.events import Fragment, Violation
from dwsps_channels.connections.websocket.reader import Reader
from tests.connections.websocket.random_frames import mutated, valid


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
    """Return the output of a reader, up to the first violation."""
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
