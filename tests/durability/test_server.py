"""The server is killed, or restarted while its worker is away."""

import asyncio

import pytest

from tests.durability.conftest import Deploy
from tests.durability.deployment import READ_WITHIN
from tests.durability.traffic import brokers, times, traffic
from tests.form import RELEASE


@pytest.mark.parametrize("broker", brokers("memory", release=("sqlite", "postgres", "redis")))
async def test_a_server_that_is_killed_loses_nothing_that_its_log_keeps(
    deploy: Deploy, broker: str
) -> None:
    deployment = await deploy(broker)
    async with traffic(deployment) as flowing:
        for _ in range(times(2, 30)):
            if deployment.keeps_log:
                await deployment.pause(0.3, 2.0)
            else:
                # The worker has come back to it, and reads what is not excused.
                await flowing.flows()
                await deployment.pause(READ_WITHIN + 0.3, READ_WITHIN + 2.0)
            await deployment.kill(deployment.server)
        await flowing.flows()


@pytest.mark.full_form
@pytest.mark.parametrize("broker", brokers("sqlite", release=("memory", "postgres", "redis")))
async def test_a_server_that_ends_while_its_worker_is_away(deploy: Deploy, broker: str) -> None:
    deployment = await deploy(broker)
    async with traffic(deployment) as flowing:
        for _ in range(times(1, 3)):
            await flowing.flows()
            await deployment.end(deployment.worker)
            await deployment.pause(2.0, 2.0)
            await deployment.end(deployment.server)
            await asyncio.to_thread(deployment.server.start)
            await asyncio.to_thread(deployment.worker.start)
        await flowing.flows()


@pytest.mark.parametrize("serve", [False, True] if RELEASE else [False])
async def test_a_server_that_is_restarted_has_its_worker_read_everything(
    deploy: Deploy, serve: bool
) -> None:
    """Its log is in its memory, and ends with it: all that was acknowledged reaches the peer before."""
    deployment = await deploy("memory", serve=serve)
    async with traffic(deployment) as flowing:
        for _ in range(times(3, 20)):
            await flowing.flows()
            # Not by ``end``: there is no excuse for what is lost.
            await asyncio.to_thread(deployment.server.terminate)
            await asyncio.to_thread(deployment.server.start)
        await flowing.flows()
