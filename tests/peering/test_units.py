"""Numbers for people."""

import pytest

from dwsps_channels.peering.units import count, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3_599, "59 min"),
        (3_600, "1 h"),
        (86_399, "23 h"),
        (200_000, "2 d"),
    ],
)
def test_a_duration_has_one_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1204, "1 204"), (2**40, "1 099 511 627 776")]
)
def test_a_count_is_grouped(number: int, text: str) -> None:
    assert count(number) == text.replace(" ", "\N{NO-BREAK SPACE}")
