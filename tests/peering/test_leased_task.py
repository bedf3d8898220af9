"""The worker's further task, under its lease."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import pytest
from channels.db import database_sync_to_async
from django.conf import settings
from django.test import override_settings

from dwsps_channels.models import Lease, Peer
from dwsps_channels.peering import lease
from dwsps_channels.peering.worker import Worker
from tests.processes import HOST, free_port, wait_until_async

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def short_leases() -> Iterator[None]:
    # It ends when a test says so.
    timings = {"LEASE_TIMEOUT": 600.0, "LEASE_RENEW_INTERVAL": 0.05, "PEER_POLL_INTERVAL": 0.05}
    with override_settings(DWSPS={**settings.DWSPS, "TIMINGS": timings}):
        yield


class Task:
    work = "tidying up"

    def __init__(self) -> None:
        self.wanted = False
        self.asked = 0
        self.running = 0
        self.runs = 0

    async def is_wanted(self) -> bool:
        self.asked += 1
        return self.wanted

    async def run(self) -> None:
        self.running += 1
        self.runs += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.running -= 1


@pytest.fixture
async def task() -> AsyncIterator[Task]:
    """That of a worker without peers."""
    task = Task()
    worker = Worker(f"ws://{HOST}:{free_port()}/", task)
    running = asyncio.create_task(worker.run())
    yield task
    worker.stop()
    await running
    assert task.running == 0


async def worker_is_running() -> bool:
    return await database_sync_to_async(lease.worker_is_running)()


async def test_it_runs_while_it_is_wanted(task: Task) -> None:
    await wait_until_async(lambda: task.asked >= 3)
    assert task.runs == 0
    assert not await worker_is_running()
    task.wanted = True
    await wait_until_async(lambda: task.running == 1)
    assert await worker_is_running()
    task.wanted = False
    await wait_until_async(lambda: task.running == 0)

    async def released() -> bool:
        return not await worker_is_running()

    await wait_until_async(released)


async def test_the_log_says_what_the_worker_does(
    task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dwsps_channels.worker")
    waits, works = "no peer to forward to; waiting for one", "no peer to forward to; tidying up"
    await wait_until_async(lambda: waits in caplog.messages)
    task.wanted = True
    await wait_until_async(lambda: works in caplog.messages)
    # A peer that comes while it has the lease for the other work.
    peer = await Peer.objects.acreate(name="far", url=f"ws://{HOST}:{free_port()}/", forward=True)
    await wait_until_async(lambda: "forwarding the publications" in caplog.text)
    await peer.adelete()
    await wait_until_async(lambda: caplog.messages.count(works) == 2)
    task.wanted = False
    await wait_until_async(lambda: caplog.messages.count(waits) == 2)
    said = [each for each in caplog.messages if each.startswith(("no peer", "forwarding"))]
    assert [each.split(" of ")[0] for each in said] == [
        waits,
        works,
        "forwarding the publications",
        works,
        waits,
    ]


async def test_it_ends_with_the_lease(task: Task) -> None:
    task.wanted = True
    await wait_until_async(lambda: task.running == 1)
    others = Lease.objects.filter(name=lease.NAME)
    await others.aupdate(holder="another")
    await wait_until_async(lambda: task.running == 0)
    await database_sync_to_async(lease.release)("another")
    await wait_until_async(lambda: task.running == 1)


async def test_it_ends_with_the_worker(task: Task) -> None:
    task.wanted = True
    await wait_until_async(lambda: task.running == 1)
