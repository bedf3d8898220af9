from dwsps_channels.core.seen import Seen
from tests.core.recording import Clock


def test_a_key_is_new_once() -> None:
    seen = Seen()
    assert seen.add(("a", 1))
    assert not seen.add(("a", 1))
    assert seen.add(("a", 2))
    assert seen.add(("b", 1))


def test_what_was_discarded_is_new_again() -> None:
    seen = Seen()
    seen.add(("a", 1))
    seen.discard(("a", 1))
    seen.discard(("a", 7))
    assert seen.add(("a", 1))


def test_the_oldest_go_when_there_are_too_many() -> None:
    seen = Seen(ids=3)
    for number in range(5):
        seen.add(("a", number))
    assert len(seen) == 3
    assert not seen.add(("a", 4))
    assert seen.add(("a", 0))


def test_they_go_when_their_time_has_come() -> None:
    clock = Clock()
    seen = Seen(seconds=10, clock=clock)
    seen.add(("a", 1))
    clock.now += 9
    seen.add(("a", 2))
    clock.now += 1
    assert seen.add(("a", 1))
    assert not seen.add(("a", 2))
    assert len(seen) == 2
