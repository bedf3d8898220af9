"""The delays before reconnecting."""

import pytest

from dwsps_channels.client import Backoff, Return
from tests.clock import Clock


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (None, Return.WITH_BACKOFF),
        (1000, Return.WITH_BACKOFF),
        (1006, Return.WITH_BACKOFF),
        (3999, Return.WITH_BACKOFF),
        (4000, Return.NEVER),
        (4099, Return.NEVER),
        (4100, Return.WITH_BACKOFF),
        (4199, Return.WITH_BACKOFF),
        (4200, Return.AT_ONCE),
        (4299, Return.AT_ONCE),
        (4300, Return.WITH_BACKOFF),
    ],
)
def test_close_code_says_whether_to_come_back(code: int | None, expected: Return) -> None:
    assert Return.after(code) is expected


@pytest.mark.parametrize("share", [1.0, 0.25, 0.0])
def test_delay_is_anything_below_a_ceiling_that_doubles_up_to_a_cap(share: float) -> None:
    backoff = Backoff(0.5, 20.0, uniform=lambda: share)
    ceilings = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]
    assert [backoff.delay() for _ in ceilings] == [share * ceiling for ceiling in ceilings]


def test_ten_thousand_attempts_are_no_overflow() -> None:
    backoff = Backoff(0.5, 20.0, uniform=lambda: 1.0)
    assert [backoff.delay() for _ in range(10_000)][-1] == 20.0


def test_only_a_connection_that_held_starts_the_delays_again() -> None:
    clock = Clock()
    backoff = Backoff(0.5, 20.0, stable_after=10.0, clock=clock, uniform=lambda: 1.0)
    assert backoff.delay() == 0.5
    backoff.opened()
    clock.now += 9.9
    assert backoff.delay(1006) == 1.0
    backoff.opened()
    clock.now += 10.0
    assert backoff.delay(1006) == 0.5
    clock.now += 10.0  # without a connection
    assert backoff.delay() == 1.0


def test_a_connection_that_was_of_use_starts_the_delays_again_however_short_it_was() -> None:
    backoff = Backoff(0.5, 20.0, uniform=lambda: 1.0)
    assert [backoff.delay() for _ in range(4)] == [0.5, 1.0, 2.0, 4.0]
    backoff.opened()
    backoff.progressed()
    assert [backoff.delay(1006), backoff.delay()] == [0.5, 1.0]


def test_who_says_at_once_again_and_again_is_not_hammered_for_being_of_use() -> None:
    backoff = Backoff(0.5, 20.0, uniform=lambda: 1.0)
    delays = []
    for _ in range(3):
        backoff.opened()
        backoff.progressed()
        delays.append(backoff.delay(4200))
    assert delays == [0.0, 0.5, 0.5]


def test_never_means_no_delay() -> None:
    assert Backoff().delay(4001) is None


def test_at_once_is_at_once_only_once_until_a_connection_held() -> None:
    clock = Clock()
    backoff = Backoff(0.5, 20.0, stable_after=10.0, clock=clock, uniform=lambda: 1.0)
    delays = []
    for _ in range(4):
        backoff.opened()
        delays.append(backoff.delay(4200))
    assert delays == [0.0, 1.0, 2.0, 4.0]
    backoff.opened()
    clock.now += 10.0
    assert backoff.delay(4299) == 0.0


def test_pause_is_at_least_half_of_the_ceiling() -> None:
    for random in (0.0, 0.5, 1.0):
        backoff = Backoff(0.5, 20, uniform=iter([random] * 8).__next__)
        pauses = [backoff.pause(attempt) for attempt in range(8)]
        ceilings = [0.5, 1, 2, 4, 8, 16, 20, 20]
        assert pauses == [ceiling * (1 + random) / 2 for ceiling in ceilings]


def test_client_with_another_token_comes_back_after_unauthorized_once() -> None:
    clock = Clock()
    random = iter([0.5, 1.0]).__next__  # many may be closed at one moment
    backoff = Backoff(0.5, 20.0, stable_after=10.0, renews_token=True, clock=clock, uniform=random)
    backoff.opened()
    assert backoff.delay(4001) == 0.25
    backoff.opened()
    clock.now += 9.9
    assert backoff.delay(4001) is None
    backoff.opened()
    clock.now += 10.0
    assert backoff.delay(4001) == 0.5
    assert backoff.delay(4003) is None


def test_client_without_another_token_does_not_come_back_after_unauthorized() -> None:
    assert Backoff(0.5, 20.0).delay(4001) is None
