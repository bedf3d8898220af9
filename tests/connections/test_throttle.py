"""The throttle of credential guessing."""

import asyncio
from itertools import count

import pytest

from dwsps_channels.connections import throttle as module
from dwsps_channels.connections.throttle import (
    FIRST_DELAY,
    FORGET_TIMEOUT,
    FREE,
    KNOWN_INTERVAL,
    MAX_ADDRESSES,
    MAX_DELAY,
    MAX_KNOWN,
    MAX_WAITING,
    WAIT_TIMEOUT,
    KnownFailure,
    Throttle,
    TooManyFailures,
)
from tests.clock import Clock


class Guesser:
    """Tries credentials, in a time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.throttle = Throttle(self.clock, self._sleep)
        self.admitted = 0
        self._credentials = (f"credential-{number}" for number in count())

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.clock.now += seconds

    async def wrong(self, address: str = "a", credential: str = "") -> float:
        """Try a false one, another each time unless it is given; the seconds until the answer."""
        began = self.clock.now
        async with self.throttle.turn(address, credential or next(self._credentials)) as failed:
            self.admitted += 1
            await asyncio.sleep(0)
            failed()
        return self.clock.now - began

    async def right(self, address: str = "a") -> float:
        began = self.clock.now
        async with self.throttle.turn(address, "right"):
            self.admitted += 1
            await asyncio.sleep(0)
        return self.clock.now - began


@pytest.fixture
def guesser() -> Guesser:
    return Guesser()


async def test_the_first_ones_cost_nothing_and_then_the_wait_doubles_up_to_its_end(
    guesser: Guesser,
) -> None:
    waits = [await guesser.wrong() for _ in range(FREE + 6)]
    assert waits == [0.0] * FREE + [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]


async def test_whoever_comes_again_and_again_is_always_answered_in_time(guesser: Guesser) -> None:
    """Within the 5 s that Daphne gives a handshake, and with an answer, not a word that it is too often."""
    assert MAX_DELAY < WAIT_TIMEOUT < 5.0
    for _ in range(50):
        assert await guesser.wrong() <= WAIT_TIMEOUT
    assert guesser.admitted == 50


async def test_many_at_once_get_no_more_tries_than_one_after_the_other(guesser: Guesser) -> None:
    began = guesser.clock.now
    tries = [asyncio.create_task(guesser.wrong()) for _ in range(1_000)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    turned_away = [answer for answer in answers if isinstance(answer, TooManyFailures)]
    assert len(turned_away) == 1_000 - guesser.admitted
    # As many as fit in the time that they wait: the free ones, then 0.25, 0.5, 1 and 2 s apart.
    assert FREE < guesser.admitted <= FREE + 4
    assert [error.is_first for error in turned_away].count(True) <= guesser.admitted
    assert guesser.clock.now - began <= WAIT_TIMEOUT + MAX_DELAY


async def test_many_right_ones_at_once_wait_for_nothing(guesser: Guesser) -> None:
    waits = await asyncio.gather(*(guesser.right() for _ in range(MAX_WAITING)))
    assert set(waits) == {0.0}
    assert not guesser.throttle._records


async def test_a_right_one_has_its_turn_after_false_ones(guesser: Guesser) -> None:
    for _ in range(10):
        await guesser.wrong()
    assert await guesser.right() <= MAX_DELAY


async def test_an_address_does_not_pay_for_another(guesser: Guesser) -> None:
    for _ in range(20):
        await guesser.wrong()
    assert await guesser.wrong("b") == 0.0


async def test_the_addresses_of_one_network_are_one(guesser: Guesser) -> None:
    for number in range(FREE):
        await guesser.wrong(f"2001:db8::{number}")
    assert await guesser.wrong("2001:db8::ffff") > 0.0
    assert await guesser.wrong("2001:db8:0:1::1") == 0.0


async def test_it_is_forgotten_after_a_while_without_failures(guesser: Guesser) -> None:
    for _ in range(20):
        await guesser.wrong()
    guesser.clock.now += FORGET_TIMEOUT
    await guesser.wrong()
    guesser.clock.now += MAX_DELAY
    await guesser.wrong()
    assert await guesser.wrong() == MAX_DELAY
    guesser.clock.now += FORGET_TIMEOUT + 1
    assert [await guesser.wrong() for _ in range(FREE + 1)] == [0.0] * FREE + [0.25]


async def test_one_that_gives_up_while_it_waits_leaves_its_turn_to_the_next(
    guesser: Guesser,
) -> None:
    never = asyncio.Event()

    async def hang() -> None:
        async with guesser.throttle.turn("a", "right"):
            await never.wait()

    hanging, waiting = asyncio.create_task(hang()), asyncio.create_task(guesser.wrong())
    await asyncio.sleep(0)
    waiting.cancel()
    hanging.cancel()
    await asyncio.wait([hanging, waiting])
    assert await guesser.right() == 0.0
    assert not guesser.throttle._records


async def test_one_that_waits_for_slow_checks_is_answered_in_time(
    guesser: Guesser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_TIMEOUT", 0.01)
    async with guesser.throttle.turn("a", "right"):
        with pytest.raises(TooManyFailures, match="too many credentials from this address"):
            await asyncio.wait_for(guesser.right(), 10)
    assert await guesser.right() == 0.0
    assert not guesser.throttle._records


async def test_one_whose_address_was_dropped_meanwhile_takes_no_failures_with_it(
    guesser: Guesser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ADDRESSES", 1)
    async with guesser.throttle.turn("a", "right"):
        await guesser.wrong("b")
        for _ in range(FREE):
            await guesser.wrong("a")
    assert await guesser.wrong("a") > 0


async def test_many_addresses_cost_no_more_memory_than_some(guesser: Guesser) -> None:
    for _ in range(FREE):
        await guesser.wrong("regular")
    for number in range(MAX_ADDRESSES + 100):
        await guesser.wrong(f"address-{number}")
        if number % 1000 == 0:
            await guesser.wrong("regular")
    assert len(guesser.throttle._records) == MAX_ADDRESSES
    assert await guesser.wrong("regular") > 0
    assert await guesser.wrong("address-0") == 0.0


async def test_the_same_false_one_counts_once(guesser: Guesser) -> None:
    for _ in range(20):
        assert await guesser.wrong(credential="expired") == 0.0
        guesser.clock.now += KNOWN_INTERVAL
    assert [await guesser.wrong() for _ in range(FREE)] == [0.0] * (FREE - 1) + [FIRST_DELAY]


async def test_the_same_false_one_is_not_checked_all_the_time(guesser: Guesser) -> None:
    tries = [guesser.wrong(credential="expired") for _ in range(30)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert guesser.admitted == 1
    assert [type(each) for each in answers[1:]] == [KnownFailure] * 29
    guesser.clock.now += KNOWN_INTERVAL
    await guesser.wrong(credential="expired")


async def test_it_remembers_a_bounded_number_of_them(guesser: Guesser) -> None:
    for _ in range(MAX_KNOWN + 50):
        await guesser.wrong()
    [record] = guesser.throttle._records.values()
    assert len(record.known) == MAX_KNOWN


async def test_clients_with_tokens_that_share_an_address_are_checked_side_by_side() -> None:
    throttle = Throttle(free=20, parallel=8, max_waiting=1000)
    checked, most, active = 0, 0, 0

    async def check(number: int) -> None:
        nonlocal checked, most, active
        async with throttle.turn("a", f"token-{number}"):
            active += 1
            most = max(most, active)
            await asyncio.sleep(0)
            active -= 1
            checked += 1

    await asyncio.gather(*map(check, range(900)))
    assert (checked, most) == (900, 8)
