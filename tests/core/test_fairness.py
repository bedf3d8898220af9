from collections import Counter, deque
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.core.fairness import FEW, OWN, fair_level, make_room, room_of


@dataclass(eq=False)
class Message:
    publisher: str
    size: int


messages = st.lists(
    st.builds(Message, st.sampled_from(["a", "b", "c", OWN]), st.integers(1, 30)),
    min_size=1,
    max_size=60,
)


def takes(message: Message, by_size: bool) -> int:
    return message.size if by_size else 1


def shares(found: list[Message], by_size: bool) -> Counter[str]:
    counts: Counter[str] = Counter()
    for message in found:
        counts[message.publisher] += takes(message, by_size)
    return counts


@given(messages, st.integers(0, 200), st.booleans())
def test_the_rest_fits_and_is_shared_fairly(sent: list[Message], room: int, by_size: bool) -> None:
    kept = deque(sent)
    dropped = make_room(kept, room, by_size=by_size)
    left = list(kept)

    # Nothing is lost or doubled, and what is left is in order.
    assert [each for each in sent if each not in dropped] == left
    assert len(dropped) + len(left) == len(sent)
    assert sum(takes(each, by_size) for each in left) <= room
    before, after = shares(sent, by_size), shares(left, by_size)
    # Half of the room is for what no client has published, and what the clients leave.
    own = before.pop(OWN, 0)
    own_room = max(room // 2, room - sum(before.values()))
    for publisher in {each.publisher for each in dropped}:
        # Each has lost its oldest, and no more than it had to.
        mine = [each for each in sent if each.publisher == publisher]
        lost = [each for each in dropped if each.publisher == publisher]
        assert mine[: len(lost)] == lost
        last = takes(lost[-1], by_size)
        if publisher == OWN:
            assert after[OWN] <= own_room < after[OWN] + takes(lost[-1], by_size)
            continue
        level = fair_level(before.values(), room - min(own, own_room))
        assert after[publisher] <= level < after[publisher] + last
        # Nobody has lost anything who had no more than is left to each.
        assert before[publisher] > level


@given(st.lists(st.integers(1, 50), min_size=1, max_size=10), st.integers(0, 300))
def test_the_level_is_the_highest_that_fits(shares: list[int], room: int) -> None:
    def taken(level: int) -> int:
        return sum(min(share, level) for share in shares)

    level = fair_level(shares, room)
    assert taken(level) <= room
    assert level == max(shares) or taken(level + 1) > room


def test_many_lose_a_quarter_at_once_and_few_no_more_than_they_must() -> None:
    assert room_of(10, 11) == 10
    assert room_of(FEW, FEW + 1) == FEW - FEW // 4


def test_the_servers_own_code_has_half_of_the_room() -> None:
    kept = deque([Message("client", 1)] * 10 + [Message("other", 1)] * 10 + [Message(OWN, 1)] * 30)
    make_room(kept, 20, by_size=False)
    assert shares(list(kept), by_size=False) == {"client": 5, "other": 5, OWN: 10}
    make_room(kept, 18, by_size=False)
    assert shares(list(kept), by_size=False) == {"client": 4, "other": 4, OWN: 9}


@given(
    st.lists(st.sampled_from(["a", "b", "c", OWN]), min_size=1, max_size=8),
    st.integers(1, 400),
    st.integers(0, 1200),
)
def test_many_are_dropped_as_few_are(pattern: list[str], each: int, room: int) -> None:
    """The oldest are taken at once if there are many: the rest is the same as one by one."""
    sent = [Message(publisher, 1) for _ in range(each) for publisher in pattern]
    at_once, one_by_one = deque(sent), deque(sent)
    dropped = make_room(at_once, room, by_size=False)
    assert dropped == make_room(one_by_one, room, by_size=True)  # each has one byte
    assert at_once == one_by_one
