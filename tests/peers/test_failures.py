"""Who is slowed down, and for how long."""

from dwsps_channels.peers.failures import (
    FORGOTTEN_SECONDS,
    FREE,
    MAX_ADDRESSES,
    MAX_SECONDS,
    Failures,
)
from tests.core.recording import Clock


def test_the_first_ones_cost_nothing_and_then_the_wait_doubles_up_to_its_end() -> None:
    failures = Failures(Clock())
    waits = [failures.add("a") for _ in range(FREE + 8)]
    assert waits == [0.0] * FREE + [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]


def test_an_address_does_not_pay_for_another() -> None:
    failures = Failures(Clock())
    for _ in range(20):
        failures.add("a")
    assert failures.add("b") == 0.0


def test_it_is_forgotten_after_a_while_without_failures() -> None:
    clock = Clock()
    failures = Failures(clock)
    for _ in range(20):
        failures.add("a")
    clock.now += FORGOTTEN_SECONDS
    assert failures.add("a") == MAX_SECONDS
    clock.now += FORGOTTEN_SECONDS + 1
    assert failures.add("a") == 0.0


def test_any_number_of_failures_is_bearable() -> None:
    failures = Failures(Clock())
    for _ in range(5000):
        wait = failures.add("a")
    assert wait == MAX_SECONDS


def test_many_addresses_cost_no_more_memory_than_some() -> None:
    failures = Failures(Clock())
    for _ in range(FREE + 1):
        failures.add("regular")
    for number in range(MAX_ADDRESSES + 100):
        failures.add(f"address-{number}")
        if number % 1000 == 0:
            failures.add("regular")
    assert len(failures._counts) == MAX_ADDRESSES
    assert failures.add("regular") > 0
    assert failures.add("address-0") == 0.0
