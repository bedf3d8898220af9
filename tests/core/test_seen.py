from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.core.seen import Seen
from tests.core.recording import Clock


def test_a_key_is_new_once() -> None:
    seen = Seen()
    assert seen.add("peer", ("a", 1))
    assert not seen.add("peer", ("a", 1))
    assert seen.add("peer", ("a", 2))
    assert seen.add("peer", ("b", 1))


def test_what_was_discarded_is_new_again() -> None:
    seen = Seen()
    seen.add("peer", ("a", 1))
    seen.discard("peer", ("a", 1))
    seen.discard("peer", ("a", 7))
    assert seen.add("peer", ("a", 1))


def test_the_oldest_go_when_there_are_too_many() -> None:
    seen = Seen(ids=3)
    for number in range(5):
        seen.add("peer", ("a", number))
    assert len(seen) == 3
    assert not seen.add("peer", ("a", 4))
    assert seen.add("peer", ("a", 0))


def test_they_go_when_their_time_has_come() -> None:
    clock = Clock()
    seen = Seen(seconds=10, clock=clock)
    seen.add("peer", ("a", 1))
    clock.now += 9
    seen.add("peer", ("a", 2))
    clock.now += 1
    assert seen.add("peer", ("a", 1))
    assert not seen.add("peer", ("a", 2))
    assert len(seen) == 2


def test_what_one_peer_has_sent_is_new_from_another() -> None:
    seen = Seen()
    assert seen.add("good", ("a", 1))
    assert seen.add("bad", ("a", 1))
    seen.discard("bad", ("a", 1))
    assert not seen.add("good", ("a", 1))


def test_one_peer_has_nothing_forgotten_that_another_has_sent() -> None:
    seen = Seen(ids=3)
    seen.add("good", ("a", 1))
    for number in range(10):
        seen.add("bad", ("a", number))
    assert not seen.add("good", ("a", 1))
    assert len(seen) == 4


def test_a_peer_that_has_sent_nothing_for_long_is_forgotten() -> None:
    clock = Clock()
    seen = Seen(seconds=10, clock=clock)
    for number in range(100):
        seen.add(f"peer-{number}", ("a", 1))
        clock.now += 1
    assert len(seen) == len(seen._peers) == 10


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["good", "bad"]),
            st.sampled_from("ab"),
            st.integers(1, 4),
            st.integers(0, 6),
        ),
        max_size=60,
    )
)
def test_it_knows_what_a_list_for_each_peer_knows(
    sent: list[tuple[str, str, int, int]],
) -> None:
    clock = Clock()
    seen = Seen(ids=3, seconds=10, clock=clock)
    remembered: dict[str, list[tuple[tuple[str, int], float]]] = {"good": [], "bad": []}
    for peer, origin, number, pause in sent:
        clock.now += pause
        key = origin, number
        known = [each for each in remembered[peer] if clock.now - each[1] < 10]
        if len(known) >= 3:
            known = known[-2:]
        is_new = key not in [each for each, _ in known]
        remembered[peer] = [*known, (key, clock.now)] if is_new else known
        assert seen.add(peer, key) == is_new
