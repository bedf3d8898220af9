from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.core.identity import Identity
from dwsps_channels.core.keys import DURABLE_KEYS, Keys, key_prefix, server_key
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


def test_remembers_those_of_durable_messages_for_longer() -> None:
    clock = Clock()
    keys = Keys(keys=4, max_age=10, clock=clock, durable_max_age=1000)
    durable = server_key("durable:1")
    keys.add(durable, 1)
    for number in range(8):  # however many others there are
        keys.add(f"other {number}", number)
    clock.now += 999
    assert keys.get(durable) == 1
    clock.now += 1001
    assert keys.get(durable) is None
    keys.add(durable, 9)
    assert keys.get(durable) == 9


def test_a_client_cannot_give_one_of_them() -> None:
    for prefix in (key_prefix(Identity(client="c"), None), key_prefix(Identity(client="c"), "ada")):
        assert not f"{prefix}durable:1".startswith(DURABLE_KEYS)
