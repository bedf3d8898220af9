"""The peer itself is killed, or its Redis: it knows from its log what it has had."""

import pytest

from tests.durability.conftest import Deploy
from tests.durability.traffic import brokers, times, traffic


@pytest.mark.full_form
@pytest.mark.parametrize("broker", brokers("sqlite", release=("memory", "redis")))
async def test_a_peer_that_is_killed_has_each_message_once(deploy: Deploy, broker: str) -> None:
    deployment = await deploy(broker, south_broker="sqlite")
    # Its subscribers resume, and its log has their place.
    async with traffic(deployment, south_stays=False) as flowing:
        for _ in range(times(2, 15)):
            await deployment.pause(0.3, 2.0)
            await deployment.kill(deployment.south.server)
        await flowing.flows()


@pytest.mark.full_form
@pytest.mark.parametrize("broker", brokers("sqlite", release=("memory", "redis")))
async def test_a_peer_whose_redis_is_killed_has_each_message_once(
    deploy: Deploy, broker: str
) -> None:
    deployment = await deploy(broker, south_broker="redis")
    assert deployment.south_keeper is not None
    async with traffic(deployment) as flowing:
        for _ in range(times(2, 15)):
            await deployment.pause(0.3, 2.0)
            await deployment.kill(deployment.south_keeper, away=0.5)
        await flowing.flows()
