from dwsps_channels.core.keys import Keys
from tests.clock import Clock


def test_remembers_the_offset_of_a_key() -> None:
    keys = Keys()
    keys.add("a", 7)
    assert (keys.get("a"), keys.get("b")) == (7, None)


def test_forgets_the_oldest_if_there_are_too_many() -> None:
    keys = Keys(keys=2)
    for offset, key in enumerate("abc", 1):
        keys.add(key, offset)
    assert ([keys.get(key) for key in "abc"], len(keys)) == ([None, 2, 3], 2)


def test_forgets_those_that_are_too_old() -> None:
    clock = Clock()
    keys = Keys(max_age=10, clock=clock)
    keys.add("a", 1)
    clock.now += 9
    assert keys.get("a") == 1
    clock.now += 1
    assert keys.get("a") is None
    keys.add("b", 2)
    assert len(keys) == 1
    keys.add("a", 3)
    assert keys.get("a") == 3
