"""The log lines about lost messages."""

import os

import pytest

from dwsps_channels.publishing.losses import REPORT_INTERVAL, FailureCounter
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def losses(clock: Clock) -> FailureCounter:
    return FailureCounter("publish() lost messages: %d, %d since the start: %s", clock)


def test_the_first_is_told_at_once_and_the_next_with_their_number(
    losses: FailureCounter, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        losses.add("no answer within 2 s")
    clock.now += REPORT_INTERVAL
    losses.add("connection refused")
    assert [each.getMessage() for each in caplog.records] == [
        "publish() lost messages: 1, 1 since the start: no answer within 2 s (1)",
        "publish() lost messages: 5, 6 since the start: no answer within 2 s (4), connection refused (1)",
    ]
    assert losses.total == 6


def test_what_is_left_is_told_once_it_is_due_and_at_the_end(
    losses: FailureCounter, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    losses.add("away")
    losses.add("away")
    losses.report_if_due()
    assert len(caplog.records) == 1
    clock.now += REPORT_INTERVAL
    losses.report_if_due()
    losses.report_if_due()
    assert len(caplog.records) == 2
    losses.add("away")
    losses.report()
    losses.report()
    assert len(caplog.records) == 3


@pytest.mark.processes
def test_a_forked_process_tells_of_its_own_only() -> None:
    from dwsps_channels.publishing.losses import losses

    losses.add("away")
    child = os.fork()
    if child == 0:
        os._exit(losses.total)
    assert os.waitpid(child, 0)[1] == 0
    losses.forget()
