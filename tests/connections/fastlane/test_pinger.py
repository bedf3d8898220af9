"""One timer for all connections."""

import asyncio
from itertools import pairwise

from dwsps_channels.connections.fastlane.pinger import Pinger
from tests.connections.transports.contract import until


class Target:
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_ping_due(self) -> None:
        self.times.append(asyncio.get_running_loop().time())


async def test_each_is_called_once_in_an_interval() -> None:
    pinger = Pinger(asyncio.get_running_loop(), 0.1)
    connection = Target()
    started = asyncio.get_running_loop().time()
    part = pinger.add(connection)
    await until(lambda: len(connection.times) == 3)
    times = [started, *connection.times]
    assert all(later - earlier > 0.09 for earlier, later in pairwise(times))
    pinger.remove(connection, part)


async def test_one_that_is_removed_is_called_no_more_and_the_timer_ends() -> None:
    pinger = Pinger(asyncio.get_running_loop(), 0.01)
    one, two = Target(), Target()
    part = pinger.add(one)
    pinger.remove(two, pinger.add(two))
    await until(lambda: len(one.times) == 2)
    assert two.times == []
    pinger.remove(one, part)
    await until(lambda: pinger._timer is None)


async def test_they_take_turns() -> None:
    """Not all pings go out at once."""
    pinger = Pinger(asyncio.get_running_loop(), 20)
    parts = []
    for _ in range(20):
        parts.append(pinger.add(Target()))
        pinger._send_pings()
    assert sorted(parts) == list(range(20))


async def test_one_may_leave_in_another_s_call() -> None:
    pinger = Pinger(asyncio.get_running_loop(), 0.01)
    calls: list[str] = []

    class Leaving(Target):
        def on_ping_due(self) -> None:
            calls.append("ping")
            pinger.remove(self, 0)

    for _ in range(3):
        pinger.add(Leaving())
    await until(lambda: len(calls) == 3)
    await until(lambda: pinger._timer is None)


async def test_without_an_interval_none_is_called() -> None:
    pinger = Pinger(asyncio.get_running_loop(), None)
    connection = Target()
    pinger.remove(connection, pinger.add(connection))
    assert pinger._timer is None
