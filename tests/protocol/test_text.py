"""Text from outside, before people see it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.protocol.text import MAX_CHARACTERS, printable


@given(st.text(max_size=2 * MAX_CHARACTERS))
def test_it_is_short_fits_a_line_and_can_be_written_anywhere(text: str) -> None:
    shown = printable(text)
    assert len(shown) <= MAX_CHARACTERS
    assert shown.isprintable()
    shown.encode()


@pytest.mark.parametrize("text", ["", "not you", "grüße, ☃", "x" * MAX_CHARACTERS])
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert printable(text) == text


def test_what_was_cut_says_so() -> None:
    assert printable("x" * (MAX_CHARACTERS + 1)) == "x" * (MAX_CHARACTERS - 1) + "…"


def test_nothing_moves_the_cursor() -> None:
    assert printable("a\x1b[2Jb\nc\x00d\u202ee") == "a [2Jb c d e"


@pytest.mark.parametrize(
    "character",
    [
        "\x00",
        "\x1b",
        "\r",
        "\x7f",
        "\x85",
        "\x9b",
        "\u200f",
        "\u202e",
        "\u2066",
        "\u2028",
        "\ud800",
    ],
)
def test_it_becomes_a_space(character: str) -> None:
    assert printable(f"a{character}b") == "a b"


def test_a_line_may_be_cut_shorter() -> None:
    assert printable("x" * 10, 4) == "xxx…"
