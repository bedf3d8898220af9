"""A peer is away for as long as the log keeps messages, and for longer."""

import asyncio
from functools import partial
from typing import Any

import pytest

from tests.durability.conftest import Deploy
from tests.durability.test_link import HEARTBEATS
from tests.durability.traffic import brokers, traffic
from tests.form import RELEASE
from tests.peering.site import QUICK
from tests.processes import free_port, wait_until_async
from tests.proxy import proxy_to

MESSAGES = 2_000 if RELEASE else 1_000
BY_COUNT = {"LOG_MESSAGES": MESSAGES, "TAIL_MESSAGES": MESSAGES}
BY_AGE = {"LOG_MAX_AGE": 15.0, "TAIL_MAX_AGE": 15.0}
BOUNDS = [
    pytest.param(BY_COUNT, id="messages"),
    *([pytest.param(BY_AGE, id="seconds")] if RELEASE else []),
]
PUBLISHERS = 10

# Times as long as messages are kept. After as many messages some more are on their way, as many as publishers may have in
# flight; after as many seconds the link needs some more to come back.
BELOW = {"messages": 0.8, "seconds": 0.6}
ABOVE = 1.5
# Redis keeps ten seconds more, for processes that are slow.
ABOVE_IN_REDIS = 3.5


@pytest.mark.parametrize("kept", BOUNDS)
@pytest.mark.parametrize("broker", brokers("sqlite", release=("memory", "postgres", "redis")))
async def test_what_a_peer_misses_beyond_the_log_is_counted_and_said(
    deploy: Deploy, broker: str, kept: dict[str, Any]
) -> None:
    south_port = free_port()
    async with proxy_to(south_port) as proxy:
        deployment = await deploy(
            broker,
            timings=QUICK | HEARTBEATS,
            dwsps=kept,
            south_url=f"ws://127.0.0.1:{proxy.port}",
            south_port=south_port,
        )
        async with traffic(deployment, publishers=PUBLISHERS, rate=50) as flowing:

            async def be_away(part: float) -> None:
                await flowing.hold()
                await flowing.arrived()
                proxy.cut()
                proxy.drop()
                flowing.go_on()
                if kept is BY_COUNT:
                    count = flowing.acknowledged + int(part * kept["LOG_MESSAGES"])
                    published = partial(flowing.has_acknowledged, count)
                    await wait_until_async(published, 60, "published")
                else:
                    await asyncio.sleep(part * kept["LOG_MAX_AGE"])
                # What is published while the link comes back would have the log forget more.
                await flowing.hold()
                proxy.mend()
                await flowing.arrived()
                flowing.go_on()
                await flowing.flows()

            await be_away(BELOW["messages" if kept is BY_COUNT else "seconds"])
            assert flowing.lost() == set()
            await be_away(ABOVE_IN_REDIS if broker == "redis" else ABOVE)
            lost = flowing.lost()
            assert len(lost) > 0
            flowing.expected_losses = lost
        await wait_until_async(
            lambda: deployment.status()["missed"] == len(lost), what="the status has the count"
        )
        assert deployment.status()["dropped"] == len(lost)
        # The worker says it, with the number.
        assert f"{len(lost)} " in deployment.worker.log, deployment.worker.log
