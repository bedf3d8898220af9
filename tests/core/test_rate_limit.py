import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.core.limits import Limits
from dwsps_channels.core.rate_limit import (
    MIN_SURPLUS_FRAMES,
    MIN_SURPLUS_RATE,
    SURPLUS_FACTOR,
    RateLimiter,
    TokenBucket,
)
from tests.clock import Clock


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


def test_several_tokens_are_taken_at_once_or_none() -> None:
    clock = Clock()
    bucket = TokenBucket(10.0, 100, clock)

    assert bucket.take(60)
    assert not bucket.take(60)
    assert bucket.take(40)
    clock.now += 6
    assert bucket.take(60)


def test_more_than_there_can_be_takes_a_full_bucket() -> None:
    clock = Clock()
    bucket = TokenBucket(10.0, 100, clock)

    assert bucket.take(1000)
    clock.now += 9
    assert not bucket.take(1000)
    clock.now += 1
    assert bucket.take(1000)


class TestRateLimiter:
    def test_none_is_made_where_nothing_is_limited(self) -> None:
        assert RateLimiter.of(Limits(), Clock()) is None
        assert RateLimiter.of(Limits(rate=1), Clock()) is not None
        assert RateLimiter.of(Limits(rate_bytes=1), Clock()) is not None

    def test_messages_and_bytes_are_counted_apart(self) -> None:
        limiter = RateLimiter(Limits(rate=1, burst=2, rate_bytes=10, burst_bytes=100), Clock())

        assert limiter.refusal(90) is None
        refused = limiter.refusal(20)
        assert refused is not None
        assert (refused.rate, refused.unit) == (10, "bytes")
        # It was refused, and counts as a message all the same.
        refused = limiter.refusal(1)
        assert refused is not None
        assert (refused.rate, refused.unit) == (1, "messages")
        assert limiter.flooding() is None

    @pytest.mark.parametrize("burst", [1, 100, 1000])
    def test_going_on_beyond_the_surplus_is_flooding(self, burst: int) -> None:
        limiter = RateLimiter(Limits(rate=2, burst=burst), Clock())
        surplus = max(SURPLUS_FACTOR * burst, MIN_SURPLUS_FRAMES)
        for _ in range(burst):
            assert limiter.refusal(1) is None
        for _ in range(surplus):
            assert limiter.refusal(1) is not None
            assert limiter.flooding() is None
        assert limiter.refusal(1) is not None
        error = limiter.flooding()
        assert error is not None
        assert (error.rate, error.unit) == (2, "messages")

    def test_so_it_is_in_bytes(self) -> None:
        limiter = RateLimiter(Limits(rate_bytes=10, burst_bytes=100), Clock())
        assert limiter.refusal(100) is None
        for _ in range(SURPLUS_FACTOR):
            assert limiter.refusal(100) is not None
            assert limiter.flooding() is None
        assert limiter.refusal(100) is not None
        error = limiter.flooding()
        assert error is not None
        assert (error.rate, error.unit) == (10, "bytes")

    @pytest.mark.parametrize("rate", [0.5, 20.0])
    def test_a_client_that_is_always_a_little_too_fast_is_refused_and_not_closed(
        self, rate: float
    ) -> None:
        clock = Clock()
        limiter = RateLimiter(Limits(rate=rate, burst=1), clock)
        refused = 0
        for _ in range(10_000):
            clock.now += 1 / (1.9 * rate)
            refused += limiter.refusal(1) is not None
        assert refused > 4000
        assert limiter.flooding() is None

    def test_pings_take_nothing_from_messages(self) -> None:
        limiter = RateLimiter(Limits(rate=1, burst=1), Clock())
        for _ in range(MIN_SURPLUS_FRAMES):
            limiter.count_control(6)
        assert limiter.flooding() is None
        assert limiter.refusal(1) is None
        limiter.count_control(6)
        assert limiter.flooding() is not None

    def test_pings_count_in_bytes_too(self) -> None:
        limiter = RateLimiter(Limits(rate_bytes=1, burst_bytes=100), Clock())
        for _ in range(SURPLUS_FACTOR):
            limiter.count_control(100)
        assert limiter.flooding() is None
        limiter.count_control(6)
        assert limiter.flooding() is not None

    def test_keep_alive_is_no_flood_however_low_the_rate(self) -> None:
        clock = Clock()
        limiter = RateLimiter(Limits(rate=1 / 3600, burst=1), clock)
        for _ in range(100_000):
            clock.now += 1 / MIN_SURPLUS_RATE
            limiter.count_control(6)
        assert limiter.flooding() is None
