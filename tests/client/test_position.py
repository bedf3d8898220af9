"""The cursor of a client: what it learns, what it holds, and what it does not believe."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.client.position import Cursor, Position


@pytest.mark.parametrize("text", ["e:0", "Zz_-9:12", "e" * 32 + ":" + "9" * 19])
def test_a_cursor_is_read_as_it_is_written(text: str) -> None:
    assert str(Cursor.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        None,
        5,
        "",
        "e",
        "e:",
        ":1",
        "e:-1",
        "e:1 ",
        "e:1\n",
        "e:\u0661",
        "a:b:1",
        "é:1",
        "e" * 33 + ":1",
    ],
)
def test_what_is_no_cursor_is_none(text: object) -> None:
    assert Cursor.parse(text) is None


def position(*topics: str) -> Position:
    made = Position(set(topics).__contains__)
    made.learn(Cursor("e", 10))
    return made


def test_a_message_moves_it_unless_another_copy_is_to_come() -> None:
    one = position("a", "a.b.c")
    one.deliver(11, "a.b.c")
    assert one.cursor == Cursor("e", 10)
    one.deliver(11, "a")
    assert one.cursor == Cursor("e", 11)
    one.deliver(12, "a.b.c")
    one.deliver(13, "d")
    assert one.cursor == Cursor("e", 13)


def test_a_copy_is_not_waited_for_whose_subscription_has_ended() -> None:
    topics = {"a", "a.b"}
    one = Position(topics.__contains__)
    one.learn(Cursor("e", 10))
    one.deliver(11, "a.b")
    topics.remove("a")
    assert one.cursor == Cursor("e", 11)


def test_without_an_epoch_there_is_no_cursor() -> None:
    one = Position({"a"}.__contains__)
    one.deliver(5, "a")
    assert one.cursor is None


def test_while_it_is_held_it_stands_and_a_break_brings_it_back() -> None:
    one = position("a")
    one.hold()
    one.deliver(12, "a")
    assert one.learn(Cursor("f", 3))
    assert (one.cursor, one.latest) == (Cursor("e", 10), Cursor("f", 3))
    assert one.disconnect()  # offsets are those of the old epoch again
    assert one.cursor == one.latest == Cursor("e", 10)


def test_when_it_is_released_it_is_where_the_connection_is() -> None:
    one = position("a")
    one.hold()
    one.deliver(12, "a")
    one.release()
    assert one.cursor == Cursor("e", 12)
    assert not one.disconnect()
    assert one.cursor == Cursor("e", 12)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("deliver"), st.integers(1, 30), st.sampled_from(["a", "a.b", "d"])),
            st.tuples(st.just("learn"), st.integers(0, 30), st.just("")),
        )
    )
)
def test_within_an_epoch_it_falls_back_by_one_copy_at_most(
    steps: list[tuple[str, int, str]],
) -> None:
    one = position("a", "a.b", "d")
    top = 10
    for name, offset, context in steps:
        if name == "learn":
            assert not one.learn(Cursor("e", offset))
        else:
            one.deliver(offset, context)
        top = max(top, offset)
        assert one.cursor is not None
        assert one.cursor.offset in (top, top - 1)
