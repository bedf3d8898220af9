from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.core.deduplicator import Deduplicator
from tests.clock import Clock


def test_a_key_is_new_once() -> None:
    deduplicator = Deduplicator()
    assert deduplicator.add("peer", ("a", 1))
    assert not deduplicator.add("peer", ("a", 1))
    assert deduplicator.add("peer", ("a", 2))
    assert deduplicator.add("peer", ("b", 1))


def test_it_tells_what_it_remembers() -> None:
    deduplicator = Deduplicator()
    assert not deduplicator.has("peer", ("a", 1))
    deduplicator.add("peer", ("a", 1))
    assert deduplicator.has("peer", ("a", 1))
    assert not deduplicator.has("peer", ("a", 2))
    assert not deduplicator.has("other", ("a", 1))


def test_the_oldest_go_when_there_are_too_many() -> None:
    deduplicator = Deduplicator(ids=3)
    for number in range(5):
        deduplicator.add("peer", ("a", number))
    assert len(deduplicator) == 3
    assert not deduplicator.add("peer", ("a", 4))
    assert deduplicator.add("peer", ("a", 0))


def test_they_go_when_their_time_has_come() -> None:
    clock = Clock()
    deduplicator = Deduplicator(max_age=10, clock=clock, newest=0)
    deduplicator.add("peer", ("a", 1))
    clock.now += 9
    deduplicator.add("peer", ("a", 2))
    clock.now += 1
    assert deduplicator.add("peer", ("a", 1))
    assert not deduplicator.add("peer", ("a", 2))
    assert len(deduplicator) == 2


def test_the_newest_are_known_when_a_peer_comes_back_late() -> None:
    clock = Clock()
    deduplicator = Deduplicator(max_age=10, clock=clock, newest=3, newest_max_age=1000)
    for number in range(6):
        deduplicator.add("peer", ("a", number))
    clock.now += 990
    assert [deduplicator.add("peer", ("a", number)) for number in (3, 4, 5, 6)] == [
        *(False, False, False),
        True,
    ]
    # That is the newest by now, so one of the others is beyond.
    assert len(deduplicator) == 4
    assert deduplicator.add("peer", ("a", 3))
    clock.now += 1000
    assert deduplicator.add("peer", ("a", 6))


def test_what_one_peer_has_sent_is_new_from_another() -> None:
    deduplicator = Deduplicator()
    assert deduplicator.add("good", ("a", 1))
    assert deduplicator.add("bad", ("a", 1))
    assert not deduplicator.add("good", ("a", 1))


def test_one_peer_has_nothing_forgotten_that_another_has_sent() -> None:
    deduplicator = Deduplicator(ids=3)
    deduplicator.add("good", ("a", 1))
    for number in range(10):
        deduplicator.add("bad", ("a", number))
    assert not deduplicator.add("good", ("a", 1))
    assert len(deduplicator) == 4


def test_a_peer_that_has_sent_nothing_for_long_is_forgotten() -> None:
    clock = Clock()
    deduplicator = Deduplicator(clock=clock, newest_max_age=10)
    for number in range(100):
        deduplicator.add(f"peer-{number}", ("a", 1))
        clock.now += 1
    assert len(deduplicator) == len(deduplicator._peers) == 10


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
    deduplicator = Deduplicator(ids=3, max_age=10, clock=clock, newest=0)
    remembered: dict[str, list[tuple[tuple[str, int], float]]] = {"good": [], "bad": []}
    for peer, origin, number, pause in sent:
        clock.now += pause
        key = origin, number
        known = [each for each in remembered[peer] if clock.now - each[1] < 10]
        if len(known) >= 3:
            known = known[-2:]
        is_new = key not in [each for each, _ in known]
        if not is_new:
            assert deduplicator.has(peer, key)
        remembered[peer] = [*known, (key, clock.now)] if is_new else known
        assert deduplicator.add(peer, key) == is_new
