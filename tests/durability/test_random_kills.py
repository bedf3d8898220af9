"""Any process is killed, at any moment: a hundred times, before a release."""

import pytest

from tests.durability.conftest import Deploy
from tests.durability.traffic import brokers, times, traffic
from tests.form import RELEASE
from tests.processes import Child


@pytest.mark.parametrize("broker", brokers("sqlite", release=("postgres", "redis")))
async def test_each_acknowledged_message_survives(deploy: Deploy, broker: str) -> None:
    deployment = await deploy(broker, with_west=RELEASE)
    victims: list[list[Child]] = [
        [deployment.server],
        [deployment.worker],
        [deployment.server, deployment.worker],
        [deployment.worker, deployment.server],
    ]
    if deployment.keeper is not None:
        victims += [[deployment.keeper], [deployment.keeper, deployment.server]]
    async with traffic(deployment) as flowing:
        while deployment.kills < times(4, 34):
            await deployment.pause(0.0, 2.0)
            await deployment.kill(
                *deployment.moments.choice(victims), away=deployment.moments.uniform(0.0, 1.0)
            )
        await flowing.flows()
