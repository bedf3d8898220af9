import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.core.rate_limit import TokenBucket
from tests.core.recording import Clock


class Scheduled:
    """The same limit told by when the next action is due (GCRA, as in ATM), not by tokens."""

    def __init__(self, rate: float, burst: int) -> None:
        self._interval = 1 / rate
        self._slack = (burst - 1) * self._interval
        self._due = 0.0

    def take(self, now: float) -> bool:
        if now < self._due - self._slack:
            return False
        self._due = max(now, self._due) + self._interval
        return True


# Powers of two, so that both count without rounding.
@given(
    st.sampled_from([0.25, 0.5, 1.0, 2.0, 8.0, 64.0]),
    st.integers(1, 20),
    st.lists(st.sampled_from([0.0, 0.0, 0.0, 1 / 64, 1 / 8, 0.5, 1.0, 7.5, 1000.0]), max_size=100),
)
def test_a_bucket_allows_what_a_schedule_allows(
    rate: float, burst: int, waits: list[float]
) -> None:
    clock = Clock()
    bucket = TokenBucket(rate, burst, clock)
    schedule = Scheduled(rate, burst)

    for wait in waits:
        clock.now += wait
        assert bucket.take() == schedule.take(clock.now)


def test_a_burst_is_allowed_and_then_one_for_each_interval() -> None:
    clock = Clock()
    bucket = TokenBucket(2.0, 3, clock)

    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    clock.now += 0.5
    assert [bucket.take() for _ in range(2)] == [True, False]
    clock.now += 1000
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("step", [0.001, 0.003, 0.01])
def test_asking_often_does_not_lose_fractions_of_a_token(step: float) -> None:
    clock = Clock()
    bucket = TokenBucket(10.0, 1, clock)

    steps = round(100 / step)
    allowed = 0
    for _ in range(steps):
        clock.now += step
        allowed += bucket.take()

    # Between two askings the full bucket may run over: at most one step is lost for each token.
    assert 100 / (0.1 + step) <= allowed <= 1001
