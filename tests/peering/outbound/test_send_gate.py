"""The gate: closed after a stop that outlasted the lease, until the lease is verified."""

import asyncio

import pytest

from dwsps_channels.peering.outbound.send_gate import LONGEST_STOP, SendGate
from tests.clock import Clock
from tests.processes import wait_until_async

LEASE = 6.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> SendGate:
    return SendGate(LEASE, clock)


def run_for(gate: SendGate, clock: Clock, seconds: float) -> None:
    """Let time pass while the process runs."""
    for _ in range(int(seconds / 0.25)):
        clock.now += 0.25
        _ = gate.is_open


def test_a_process_that_runs_sends_however_long_its_lease_cannot_be_renewed(
    gate: SendGate, clock: Clock
) -> None:
    for _ in range(20):
        run_for(gate, clock, 1.0)
        gate.fail()
        assert gate.is_open


def test_a_stop_that_the_lease_outlasts_closes_nothing(gate: SendGate, clock: Clock) -> None:
    clock.now += LEASE - 0.1
    assert gate.is_open


def test_a_stop_past_the_lease_closes_it_until_the_lease_is_verified(
    gate: SendGate, clock: Clock
) -> None:
    clock.now += LEASE + 0.1
    assert not gate.is_open
    run_for(gate, clock, 1.0)
    assert not gate.is_open
    gate.verify(gate.now())
    assert gate.is_open


def test_a_short_stop_counts_if_the_lease_ends_before_it_is_renewed(
    gate: SendGate, clock: Clock
) -> None:
    clock.now += LONGEST_STOP + 0.1
    assert gate.is_open
    run_for(gate, clock, LEASE - LONGEST_STOP - 0.5)
    assert gate.is_open
    run_for(gate, clock, 0.5)
    assert not gate.is_open


def test_a_renewal_makes_up_for_a_short_stop(gate: SendGate, clock: Clock) -> None:
    clock.now += 2.0
    gate.verify(gate.now())
    run_for(gate, clock, 3 * LEASE)
    assert gate.is_open


def test_a_renewal_during_which_the_process_was_stopped_opens_nothing(
    gate: SendGate, clock: Clock
) -> None:
    asked_at = gate.now()
    clock.now += LEASE + 0.1
    gate.verify(asked_at)
    assert not gate.is_open


def test_the_first_failure_after_a_stop_opens_nothing_but_lasting_ones_do(
    gate: SendGate, clock: Clock
) -> None:
    """The connection to the database may have been lost by the stop, while another worker took the lease."""
    clock.now += 60.0
    gate.fail()
    assert not gate.is_open
    run_for(gate, clock, LEASE - 0.5)
    gate.fail()
    assert not gate.is_open
    run_for(gate, clock, 0.5)
    gate.fail()
    assert gate.is_open


async def test_it_can_be_waited_for(gate: SendGate, clock: Clock) -> None:
    await gate.opened()
    clock.now += 2 * LEASE
    waiting = asyncio.create_task(gate.opened())
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.verify(gate.now())
    await waiting


async def test_it_notices_a_stop_while_nothing_is_sent(
    gate: SendGate, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    gate = SendGate(0.04, clock)
    watching = asyncio.create_task(gate.watch())
    clock.now += 1.0
    await wait_until_async(lambda: "was stopped for longer than its lease" in caplog.text)
    watching.cancel()
    await asyncio.wait([watching])
