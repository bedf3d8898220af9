"""Several processes on one Redis: each of them may end, and so may Redis."""

import asyncio

import pytest

from tests.durability.conftest import Deploy
from tests.durability.traffic import times, traffic


@pytest.mark.full_form
async def test_a_process_that_serves_and_forwards_is_killed_beside_a_sibling(
    deploy: Deploy,
) -> None:
    deployment = await deploy("redis", processes=2, serve=True)
    async with traffic(deployment) as flowing:
        for _ in range(times(3, 30)):
            await deployment.pause(0.5, 4.0)
            await deployment.kill(deployment.moments.choice(deployment.servers))
        await flowing.flows()


@pytest.mark.full_form
async def test_the_first_process_is_restarted_while_all_is_published_at_the_second(
    deploy: Deploy,
) -> None:
    deployment = await deploy("redis", processes=2)
    async with traffic(deployment, publish_at=deployment.servers[1:]) as flowing:
        for _ in range(times(2, 6)):
            await deployment.pause(0.5, 3.0)
            await deployment.end(deployment.server)
            await asyncio.to_thread(deployment.server.start)
        await flowing.flows()
        assert all(writer.connections == 1 for writer in flowing.writers)


async def test_redis_is_killed_with_three_processes_on_it(deploy: Deploy) -> None:
    deployment = await deploy("redis", processes=3)
    assert deployment.keeper is not None
    async with traffic(deployment, publishers=6) as flowing:
        for _ in range(times(2, 6)):
            await flowing.flows()
            await deployment.pause(0.0, 1.0)
            await deployment.kill(deployment.keeper, away=0.5)
        await flowing.flows()
