"""Server and worker are killed, as two processes or as one."""

import asyncio

import pytest

from tests.durability.conftest import Deploy
from tests.durability.traffic import brokers, times, traffic


@pytest.mark.full_form
@pytest.mark.parametrize("broker", brokers("redis", release=("memory", "sqlite", "postgres")))
async def test_worker_and_server_killed_a_second_apart(deploy: Deploy, broker: str) -> None:
    deployment = await deploy(broker)
    async with traffic(deployment) as flowing:
        for _ in range(times(1, 6)):
            await deployment.pause(1.0, 3.0)
            back = asyncio.create_task(deployment.kill(deployment.worker))
            await asyncio.sleep(1.0)
            await deployment.kill(deployment.server)
            await back
        await flowing.flows()


@pytest.mark.full_form
@pytest.mark.parametrize("broker", brokers("sqlite", release=("memory", "postgres", "redis")))
async def test_server_and_worker_killed_together(deploy: Deploy, broker: str) -> None:
    deployment = await deploy(broker)
    async with traffic(deployment) as flowing:
        for _ in range(times(2, 30)):
            await deployment.pause(0.5, 4.0)
            await deployment.kill(deployment.server, deployment.worker)
        await flowing.flows()


@pytest.mark.full_form
@pytest.mark.parametrize("broker", brokers("sqlite", release=("postgres",)))
async def test_a_process_that_serves_and_forwards_is_killed(deploy: Deploy, broker: str) -> None:
    deployment = await deploy(broker, serve=True)
    async with traffic(deployment) as flowing:
        for _ in range(times(2, 30)):
            await deployment.pause(0.5, 4.0)
            await deployment.kill(deployment.server)
        await flowing.flows()
