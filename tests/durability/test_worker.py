"""The worker is killed, or a standby takes over from it."""

import asyncio
import signal

import pytest

from tests.durability.conftest import Deploy
from tests.durability.traffic import brokers, times, traffic
from tests.form import RELEASE
from tests.peering.site import QUICK

# As by default.
LEASE = {"LEASE_TIMEOUT": 6.0, "LEASE_RENEW_INTERVAL": 1.5} if RELEASE else {}


@pytest.mark.full_form
@pytest.mark.parametrize("broker", brokers("sqlite", release=("memory", "postgres", "redis")))
async def test_a_worker_that_is_killed_loses_nothing(deploy: Deploy, broker: str) -> None:
    deployment = await deploy(broker)
    async with traffic(deployment) as flowing:
        for _ in range(times(2, 30)):
            await deployment.pause(0.3, 2.0)
            await deployment.kill(deployment.worker)
        await flowing.flows()


@pytest.mark.full_form
@pytest.mark.parametrize("broker", brokers("redis", release=("sqlite", "postgres")))
async def test_a_standby_takes_over_a_large_backlog(deploy: Deploy, broker: str) -> None:
    # All of it comes at once: more than a subscriber that was away a moment may have again, by default.
    kept = {"TAIL_BYTES": 64 * 2**20, "RESUME_BYTES": 64 * 2**20}
    deployment = await deploy(broker, workers=2, timings=QUICK | LEASE, south_dwsps=kept)
    async with traffic(deployment, publishers=2, rate=30, padding=60_000) as flowing:
        for worker in deployment.workers[: times(1, 2)]:
            await deployment.pause(0.5, 2.0)
            # The other has the lease as soon as this one's has ended.
            await asyncio.to_thread(worker.kill)
            await flowing.flows()
            await asyncio.to_thread(worker.start)


@pytest.mark.full_form
@pytest.mark.parametrize("broker", brokers("sqlite", release=("memory", "postgres", "redis")))
async def test_a_worker_that_is_stopped_past_its_lease_sends_nothing_twice(
    deploy: Deploy, broker: str
) -> None:
    deployment = await deploy(broker, workers=2)
    async with traffic(deployment) as flowing:
        for number in range(times(1, 10)):
            worker = deployment.workers[number % 2]
            await deployment.suspend(worker)
            # The other takes over.
            await flowing.flows()
            await deployment.pause(0.0, 1.0)
            worker.signal(signal.SIGCONT)
            await flowing.flows()
