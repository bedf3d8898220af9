"""The log throttle: how often a line is due."""

import pytest

from dwsps_channels.logs import throttle as throttles
from dwsps_channels.logs.throttle import LogThrottle
from tests.clock import Clock


def test_the_first_is_due_and_the_next_after_the_interval() -> None:
    clock = Clock()
    throttle = LogThrottle(10.0, clock)
    assert throttle.is_due()
    assert not throttle.is_due()
    clock.now += 9.9
    assert not throttle.is_due()
    clock.now += 0.1
    assert throttle.is_due()
    assert not throttle.is_due()


def test_one_that_was_not_due_does_not_put_off_the_next() -> None:
    clock = Clock()
    throttle = LogThrottle(10.0, clock)
    assert [throttle.is_due()] == [True]
    for _ in range(9):
        clock.now += 1.0
        assert not throttle.is_due()
    clock.now += 1.0
    assert throttle.is_due()


def test_each_key_has_its_own() -> None:
    clock = Clock()
    throttle = LogThrottle(10.0, clock)
    assert throttle.is_due(LookupError)
    clock.now += 5.0
    assert throttle.is_due(OSError)
    assert not throttle.is_due(LookupError)
    clock.now += 5.0
    assert throttle.is_due(LookupError)
    assert not throttle.is_due(OSError)


def test_of_too_many_keys_the_one_that_was_logged_longest_ago_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throttles, "MAX_KEYS", 2)
    clock = Clock()
    throttle = LogThrottle(10.0, clock)
    assert throttle.is_due("a")
    assert throttle.is_due("b")
    clock.now += 10.0
    assert throttle.is_due("a")
    assert throttle.is_due("c")
    assert not throttle.is_due("a")
    assert throttle.is_due("b")
