from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.core.keys import Keys
from tests.clock import Clock


def test_remembers_the_offset_of_a_key() -> None:
    keys = Keys()
    keys.add("a", 7)
    assert (keys.get("a"), keys.get("b")) == (7, None)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 12), st.sampled_from([0, 0, 0, 1, 9, 11]))),
    st.integers(2, 8),
)
def test_forgets_no_key_that_is_young_and_among_the_newest(
    steps: list[tuple[bool, int, int]], limit: int
) -> None:
    clock = Clock()
    keys = Keys(limit, max_age=10, clock=clock)
    added: dict[str, tuple[float, int]] = {}
    for number, (is_new, which, pause) in enumerate(steps):
        clock.now += pause
        key = f"new {number}" if is_new else f"key {which}"
        known = keys.get(key)
        at, offset = added.get(key, (0.0, 0))
        newer = sum(each > offset for _, each in added.values())
        if known is None:
            assert clock.now - at >= 10 or newer >= limit // 2
            keys.add(key, number + 1)
            added[key] = clock.now, number + 1
        else:
            assert known == offset
            assert clock.now - at < 3 * 10
        assert len(keys) <= limit


def test_forgets_those_that_are_too_old() -> None:
    clock = Clock()
    keys = Keys(max_age=10, clock=clock)
    keys.add("a", 1)
    clock.now += 9
    assert keys.get("a") == 1
    clock.now += 11
    assert keys.get("a") is None
    keys.add("a", 3)
    assert keys.get("a") == 3
    assert len(keys) == 1
