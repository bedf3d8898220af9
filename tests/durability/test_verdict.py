"""The verdict finds what is wrong with a trial: a trial is worth as much as this."""

from tests.chaos.record import Message, Publisher
from tests.durability.verdict import Verdict, judge

CAME = [Message(publisher, number) for number in range(20) for publisher in (0, 1)]


def publishers() -> list[Publisher]:
    """Two of them, whose messages were all acknowledged."""
    return [
        Publisher(publisher, acknowledged={number: number for number in range(20)})
        for publisher in (0, 1)
    ]


def test_each_message_once_and_in_order_is_without_a_fault() -> None:
    assert judge(publishers(), CAME) == Verdict([], [], [], [], 0)
    assert judge(publishers(), CAME).faults("peer") == []


def test_an_acknowledged_message_that_never_came_is_lost() -> None:
    found = judge(publishers(), [one for one in CAME if one != (1, 7)])
    assert found.lost == [(1, 7)]
    assert found.faults("peer") == ["peer: 1 lost: 1/7 …"]


def test_the_last_message_is_missed_too() -> None:
    assert judge(publishers(), CAME[:-1]).lost == [CAME[-1]]


def test_a_message_that_came_twice_is_doubled_and_not_out_of_order() -> None:
    found = judge(publishers(), [*CAME, Message(0, 7)])
    assert (found.doubled, found.disordered) == ([(0, 7)], [])


def test_an_earlier_message_after_a_later_one_is_out_of_order() -> None:
    found = judge(publishers(), [*CAME[:8], Message(0, 9), *CAME[8:18], *CAME[20:]])
    assert found.disordered == [(0, number) for number in (4, 5, 6, 7, 8)]


def test_publishers_have_no_order_among_them() -> None:
    one_after_the_other = sorted(CAME)
    assert judge(publishers(), one_after_the_other).disordered == []


def test_a_refused_message_must_not_come() -> None:
    [first, second] = publishers()
    first.acknowledged.pop(3)
    first.refused.add(3)
    assert judge([first, second], CAME).refused == [(0, 3)]
    assert judge([first, second], [one for one in CAME if one != (0, 3)]).refused == []


def test_a_message_of_unknown_outcome_may_come_or_not_but_once() -> None:
    [first, second] = publishers()
    first.acknowledged.pop(3)
    first.unknown.add(3)
    found = judge([first, second], CAME)
    assert (found.faults("peer"), found.unknown_received) == ([], 1)
    found = judge([first, second], [one for one in CAME if one != (0, 3)])
    assert (found.faults("peer"), found.unknown_received) == ([], 0)
    assert judge([first, second], [*CAME, Message(0, 3)]).doubled == [(0, 3)]
