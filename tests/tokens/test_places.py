"""The places for calls of the authenticator."""

import asyncio
from collections.abc import Callable

import pytest

from dwsps_channels.threads.pools import Busy
from dwsps_channels.tokens import places as module
from dwsps_channels.tokens.places import Places, TooManyTokens

HERE, THERE = "192.0.2.1", "192.0.2.2"


def enter(places: Places, address: str = HERE) -> asyncio.Task[Callable[[], None]]:
    return asyncio.ensure_future(places.enter(address))


async def entered(*calls: asyncio.Task[Callable[[], None]]) -> list[Callable[[], None]]:
    """Return how those leave that have a place by now."""
    for _ in range(5):
        await asyncio.sleep(0)
    return [each.result() for each in calls if each.done()]


@pytest.mark.parametrize(("count", "share"), [(1, 1), (2, 1), (4, 3), (16, 12)])
async def test_an_address_has_its_share_and_the_rest_is_for_others(count: int, share: int) -> None:
    places = Places(count)
    calls = [enter(places) for _ in range(2 * count)]
    leaves = await entered(*calls)
    assert len(leaves) == share
    others = [enter(places, THERE) for _ in range(count - share)]
    assert len(await entered(*others)) == count - share
    # Each that leaves makes room for the next one.
    for number, call in enumerate(calls):
        (await call)()
        assert len(await entered(*calls)) == min(share + number + 1, len(calls))


async def test_who_comes_from_elsewhere_waits_for_one_place_and_not_for_a_line() -> None:
    places = Places(2)
    first, second = [enter(places) for _ in range(50)], [enter(places, THERE) for _ in range(50)]
    [leave] = await entered(*first)
    assert len(await entered(*second)) == 1
    late = enter(places, "192.0.2.3")
    leave()
    assert len(await entered(late)) == 1
    assert not await entered(*first[1:], *second[1:])


async def test_a_line_that_is_too_long_is_refused_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    places = Places(4)
    calls = [enter(places) for _ in range(3)]
    leaves = await entered(*calls)
    for _ in range(3):
        with pytest.raises(TooManyTokens, match="too many tokens from this address"):
            await places.enter(HERE)
    [line] = caplog.messages
    assert (
        line == f"tokens from {HERE} are not checked: too many tokens from this address at a time"
    )
    assert len(await entered(enter(places, THERE))) == 1
    leaves[0]()
    assert len(await entered(enter(places))) == 1


async def test_who_waits_too_long_learns_for_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAIT", 0.01)
    places = Places(4)
    leaves = [await places.enter(HERE) for _ in range(3)]
    with pytest.raises(TooManyTokens):
        await places.enter(HERE)
    leaves.append(await places.enter(THERE))
    with pytest.raises(Busy, match=r"4 tokens were being checked for 0\.01 s"):
        await places.enter(THERE)
    for leave in leaves:
        leave()
    assert len(await entered(*[enter(places) for _ in range(4)])) == 3


async def test_who_gives_up_leaves_nothing_behind() -> None:
    places = Places(2)
    leaves = await entered(*[enter(places, each) for each in (HERE, THERE)])
    waiting = [enter(places, each) for each in (HERE, HERE, THERE, "192.0.2.3")]
    await entered(*waiting)
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)
    for leave in leaves:
        leave()
    assert places._lines == {}
    assert len(await entered(enter(places, HERE), enter(places, THERE))) == 2
