"""The peer itself is killed, and knows from its log what it has had."""

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
