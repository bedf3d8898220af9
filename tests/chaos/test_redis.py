"""Four processes on one Redis, under load: processes and Redis die, and the clients miss nothing."""

import asyncio
from pathlib import Path

import pytest

from tests.chaos.cluster import Cluster, KeepingRedis, redis_layer, stopped
from tests.chaos.traffic import TIMES, traffic
from tests.form import RELEASE
from tests.processes import Child, ServerFactory, wait_until_async

pytestmark = pytest.mark.processes

KILLS = 50 if RELEASE else 3
STOPPED = 8.0 if RELEASE else 3.0
"""Seconds for which Redis stands still: longer than a publish waits."""


async def test_processes_and_redis_fail(
    start_server: ServerFactory, children: list[Child], tmp_path: Path
) -> None:
    redis = KeepingRedis.make(tmp_path)
    children.append(redis)
    redis.start()
    cluster = Cluster(start_server, redis_layer(redis.url))
    async with traffic(cluster.servers) as flowing:
        for _ in range(KILLS):
            await cluster.kill_one()
        await flowing.flows()
        assert flowing.resets == [], "a killed process costs its clients nothing"

        for _ in range(TIMES):
            with stopped(redis):
                await asyncio.sleep(STOPPED)
            await flowing.flows()

        with stopped(redis):
            server = await cluster.kill_one()
            for subscriber in flowing.subscribers[::3]:
                subscriber.move_to(server.url)
            await wait_until_async(
                lambda: all(one.without_log for one in flowing.subscribers[::3]),
                60.0,
                "clients are at a process that cannot read the log yet",
            )
        await flowing.flows()

        for _ in range(TIMES):
            await asyncio.to_thread(redis.restart)
            await flowing.flows()

        for _ in range(TIMES):
            await asyncio.to_thread(redis.kill)
            redis.forget()
            await asyncio.to_thread(redis.start)
            await flowing.flows()
        assert len(flowing.resets) >= len(flowing.subscribers), (
            "a log that is lost is a reset for all"
        )
