"""One timer for all connections."""

import asyncio
from itertools import pairwise

from dwsps_channels.connections.fastlane.heartbeat import Heartbeat
from tests.connections.transports.contract import until


class Beats:
    def __init__(self) -> None:
        self.times: list[float] = []

    def beat(self) -> None:
        self.times.append(asyncio.get_running_loop().time())


async def test_each_beats_once_in_an_interval() -> None:
    heartbeat = Heartbeat(asyncio.get_running_loop(), 0.1)
    connection = Beats()
    started = asyncio.get_running_loop().time()
    part = heartbeat.add(connection)
    await until(lambda: len(connection.times) == 3)
    times = [started, *connection.times]
    assert all(later - earlier > 0.09 for earlier, later in pairwise(times))
    heartbeat.remove(connection, part)


async def test_who_is_removed_beats_no_more_and_the_timer_ends() -> None:
    heartbeat = Heartbeat(asyncio.get_running_loop(), 0.01)
    one, two = Beats(), Beats()
    part = heartbeat.add(one)
    heartbeat.remove(two, heartbeat.add(two))
    await until(lambda: len(one.times) == 2)
    assert two.times == []
    heartbeat.remove(one, part)
    await until(lambda: heartbeat._timer is None)


async def test_they_take_turns() -> None:
    """Not all pings go out at once."""
    heartbeat = Heartbeat(asyncio.get_running_loop(), 20)
    parts = []
    for _ in range(20):
        parts.append(heartbeat.add(Beats()))
        heartbeat._beat()
    assert sorted(parts) == list(range(20))


async def test_one_may_leave_in_another_s_beat() -> None:
    heartbeat = Heartbeat(asyncio.get_running_loop(), 0.01)
    beats: list[str] = []

    class Leaving(Beats):
        def beat(self) -> None:
            beats.append("beat")
            heartbeat.remove(self, 0)

    for _ in range(3):
        heartbeat.add(Leaving())
    await until(lambda: len(beats) == 3)
    await until(lambda: heartbeat._timer is None)


async def test_without_an_interval_nothing_beats() -> None:
    heartbeat = Heartbeat(asyncio.get_running_loop(), None)
    connection = Beats()
    heartbeat.remove(connection, heartbeat.add(connection))
    assert heartbeat._timer is None
