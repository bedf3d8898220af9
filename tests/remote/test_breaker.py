"""After a failure, who is to try again."""

import pytest

from dwsps_channels.remote.breaker import CircuitBreaker
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(1.0, clock)


def test_everybody_while_it_works(breaker: CircuitBreaker) -> None:
    assert all(breaker.allows(2.0) for _ in range(3))
    breaker.succeed()
    assert breaker.allows(2.0)


def test_nobody_for_a_moment_after_a_failure(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.fail()
    assert not breaker.allows(2.0)
    clock.now += 0.9
    assert not breaker.allows(2.0)


def test_then_one_and_everybody_if_it_succeeds(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.fail()
    clock.now += 1.0
    assert [breaker.allows(2.0) for _ in range(3)] == [True, False, False]
    breaker.succeed()
    assert [breaker.allows(2.0) for _ in range(3)] == [True, True, True]


def test_or_nobody_for_another_moment(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.fail()
    clock.now += 1.0
    assert breaker.allows(2.0)
    breaker.fail()
    clock.now += 0.9
    assert not breaker.allows(2.0)
    clock.now += 0.1
    assert breaker.allows(2.0)


def test_one_that_never_reports_is_taken_for_failed(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.fail()
    clock.now += 1.0
    assert breaker.allows(2.0)
    clock.now += 2.9
    assert not breaker.allows(2.0)
    clock.now += 0.1
    assert breaker.allows(2.0)
