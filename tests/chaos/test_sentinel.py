"""Four processes on a Redis that fails over to a replica that lagged, under load."""

import asyncio
from pathlib import Path

import pytest

from tests.chaos.cluster import Cluster, Replicated, stopped
from tests.chaos.traffic import TIMES, traffic
from tests.processes import Child, ServerFactory, wait_until_async

pytestmark = pytest.mark.processes

LAG = 0.5
"""Seconds by which a replica lags."""


async def test_a_lagging_replica_takes_over(
    start_server: ServerFactory, children: list[Child], tmp_path: Path
) -> None:
    replicated = Replicated(tmp_path, children)
    cluster = Cluster(start_server, replicated.layer)

    async def lag() -> None:
        await asyncio.to_thread(replicated.cut)
        # What is published now is at the master alone.
        await asyncio.sleep(LAG)

    async def moved() -> None:
        await wait_until_async(
            lambda: asyncio.to_thread(replicated.is_moved), 60.0, "the replica takes over"
        )

    async with traffic(cluster.servers) as flowing:
        for _ in range(TIMES):
            resets = len(flowing.resets)
            await lag()
            await asyncio.to_thread(replicated.master.kill)
            await moved()
            await flowing.flows()
            assert len(flowing.resets) > resets, "what the replica did not have is lost, and told"
            await asyncio.to_thread(replicated.swap)

        for _ in range(TIMES):
            # The old master comes back, and is a master for a moment beside the new one.
            await lag()
            with stopped(replicated.master):
                await moved()
                await asyncio.sleep(LAG)
            await flowing.flows()
            await asyncio.to_thread(replicated.swap)
            await flowing.flows()
