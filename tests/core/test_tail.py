from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from msgspec import Raw

from dwsps_channels.core.entry import Entry
from dwsps_channels.core.log import Log
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.retention import Retention
from dwsps_channels.core.tail import Tail
from tests.clock import Clock
from tests.core.recording import STAMP


def publication(
    origin: str, number: int, message: bytes = b"1", publisher: str = ""
) -> Publication:
    return Publication("news", Raw(message), STAMP, origin, number, publisher)


def entries(tail: Tail) -> Sequence[Entry]:
    return tail.last("news", 10**6)


def kept(tail: Tail) -> list[tuple[str, int]]:
    return [(each.publication.origin, each.publication.sequence) for each in entries(tail)]


def test_the_oldest_go_when_there_are_too_many() -> None:
    tail = Tail(Retention(messages=3))
    for number in range(1, 6):
        tail.append(publication("a", number))
    assert kept(tail) == [("a", 3), ("a", 4), ("a", 5)]


def test_the_oldest_go_when_they_are_too_large() -> None:
    tail = Tail(Retention(bytes=10_000))
    for number in range(1, 6):
        tail.append(publication("a", number, b"1" * 4_000))
    assert kept(tail) == [("a", 4), ("a", 5)]


@pytest.mark.parametrize(("count", "size"), [(100_000, 10), (2_000, 60_000)], ids=["many", "large"])
def test_who_publishes_without_end_takes_no_place_of_others(count: int, size: int) -> None:
    tail = Tail()
    flood, numbers = b"1" * size, iter(range(1, count + 10_000))
    others = []

    def publish(publisher: str, message: bytes) -> int:
        number = next(numbers)
        tail.append(publication("a", number, message, publisher))
        return number

    for step in range(count):
        if step % (count // 20) == 0:
            others += [publish(f"other-{each}", b"important") for each in range(10)]
        publish("flood", flood)
    found = [number for _, number in kept(tail)]
    assert set(others) <= set(found)
    assert found == sorted(found)
    assert len(tail) > 200
    assert sum(entry.size for entry in entries(tail)) <= 16 * 1024 * 1024
    assert len(tail) <= 10_000


def test_a_message_larger_than_all_is_not_kept_and_costs_nothing() -> None:
    tail = Tail(Retention(bytes=1_000))
    tail.append(publication("a", 1, b"1" * 4_000))
    tail.append(publication("a", 2))
    assert kept(tail) == [("a", 2)]


def test_they_go_when_their_time_has_come() -> None:
    clock = Clock()
    tail = Tail(Retention(seconds=10), clock=clock)
    tail.append(publication("a", 1))
    clock.now += 11
    tail.append(publication("a", 2))
    assert kept(tail) == [("a", 2)]


def test_what_is_loaded_is_as_old_as_the_log_says_whatever_its_publisher_has_stamped() -> None:
    clock = Clock()
    tail = Tail(Retention(seconds=300.0), clock=clock)
    stamps = ["", "2020-01-21T17:03:13.625Z", "2999-01-21T17:03:13.625Z"]
    stamps += [datetime.fromtimestamp(clock() - 299, UTC).isoformat()]
    publications = [
        (number, Publication("news", Raw(b"1"), stamp, "a", number))
        for number, stamp in enumerate(stamps, 1)
    ]
    tail.begin(Log("epoch", 4, 0, publications, ages={1: 200.0, 2: 100.0, 3: 0.0, 4: 0.0}))
    left = []
    for _ in range(4):
        left.append([number for _, number in kept(tail)])
        clock.now += 101
    assert left == [[1, 2, 3, 4], [2, 3, 4], [3, 4], []]


@pytest.mark.parametrize("is_loaded", [False, True], ids=["received", "loaded"])
def test_half_of_the_room_is_for_messages_of_peers(is_loaded: bool) -> None:
    """However they came here: a peer stands for many publishers."""
    tail = Tail(Retention(messages=12))
    of_peer = Publication("news", Raw(b"1"), STAMP, "far", 1, "paris", from_peer_server=True)
    published = [
        of_peer
        if number % 4 == 0
        else publication("here", number, publisher=f"client {number % 4}")
        for number in range(24)
    ]
    if is_loaded:
        tail.begin(Log("one", offset=24, publications=list(enumerate(published, 1))))
    else:
        for offset, each in enumerate(published, 1):
            tail.append(each, offset)
    entries = tail.last("news", 24)
    assert len(entries) == 12
    assert sum(entry.publication.from_peer_server for entry in entries) == 6
