"""The link to the peer is slow, breaks, or is cut for long."""

import asyncio

import pytest

from tests.durability.conftest import Deploy
from tests.durability.traffic import brokers, traffic
from tests.form import RELEASE
from tests.peering.site import QUICK
from tests.processes import free_port, wait_until_async
from tests.proxy import proxy_to

HEARTBEATS = {
    "LINK_HEARTBEAT_INTERVAL": 1.0,
    "LINK_HEARTBEAT_TIMEOUT": 2.0,
    "LINK_OPEN_TIMEOUT": 2.0,
}
RESETS = 18 if RELEASE else 4
RESET_EVERY = 5.0 if RELEASE else 1.5
CUT = 60.0 if RELEASE else 5.0


@pytest.mark.parametrize("broker", brokers("memory", release=("sqlite", "redis")))
async def test_a_slow_link_that_is_reset_again_and_again(deploy: Deploy, broker: str) -> None:
    south_port = free_port()
    async with proxy_to(south_port) as proxy:
        proxy.delay = 0.1
        deployment = await deploy(
            broker, south_url=f"ws://127.0.0.1:{proxy.port}", south_port=south_port
        )
        async with traffic(deployment, publishers=6) as flowing:
            for number in range(RESETS):
                await wait_until_async(lambda: proxy.accepted > number)  # noqa: B023
                await asyncio.sleep(RESET_EVERY)
                proxy.drop()
            # It has kept pace: what is on its way now is no backlog.
            await flowing.flows()


@pytest.mark.full_form
@pytest.mark.parametrize("broker", brokers("sqlite", release=("memory", "redis")))
async def test_a_link_that_is_cut_without_notice(deploy: Deploy, broker: str) -> None:
    south_port = free_port()
    async with proxy_to(south_port) as proxy:
        deployment = await deploy(
            broker,
            timings=QUICK | HEARTBEATS,
            south_url=f"ws://127.0.0.1:{proxy.port}",
            south_port=south_port,
        )
        # No more than the log in memory keeps: 10 000 messages.
        async with traffic(deployment, publishers=6, rate=20) as flowing:
            proxy.cut()
            await asyncio.sleep(CUT)
            proxy.mend()
            await flowing.flows()
