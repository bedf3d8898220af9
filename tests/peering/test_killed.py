"""Messages survive when workers and servers are killed."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.peering.conftest import MakeSites
from tests.peering.site import QUICK, Site
from tests.peering.test_mesh import is_at
from tests.peering.traffic import Audience, publish
from tests.processes import wait_until_async

RATE = 200.0  # messages a second

# A worker that is late, as on a busy machine, keeps its lease.
TIMINGS = QUICK | {"LEASE_TIMEOUT": 5.0}


def connect(north: Site, south: Site) -> None:
    """Have north forward to south."""
    south.add_peer("north", north.url, "--no-forward")
    north.add_peer("south", south.url)


@pytest.fixture(scope="module")
def running(make_shared_sites: MakeSites) -> list[Site]:
    """Two servers."""
    sites = make_shared_sites("north", "south", timings=TIMINGS)
    for site in sites:
        site.start_server()
    return sites


@pytest.fixture
def two(running: list[Site]) -> Iterator[list[Site]]:
    """North forwards to south, once it has a worker."""
    connect(*running)
    yield running
    for site in running:
        site.end_workers()
        site.remove_peers()
        if site.server.exit_status is not None:
            site.server.start()


@pytest.mark.full_form
async def test_messages_wait_for_a_worker_that_was_killed(two: list[Site]) -> None:
    north, south = two
    worker = north.start_worker()
    await is_at(north, "south", "connected")
    async with Audience(south.url) as audience:
        publishing = asyncio.create_task(publish(north.url, "north", 1_000, rate=RATE))
        for enough in (100, 350, 600):
            await audience.has_so_many("north", enough)
            await asyncio.to_thread(worker.kill)
            await asyncio.to_thread(worker.start)
        await publishing
        await audience.gets("north", 1_000)


async def test_a_standby_takes_over_from_a_worker_that_was_killed(two: list[Site]) -> None:
    north, south = two
    active = north.start_worker()
    standby = north.start_worker()
    assert "standing by" in standby.log
    await is_at(north, "south", "connected")
    async with Audience(south.url) as audience:
        publishing = asyncio.create_task(publish(north.url, "north", 1_200, rate=RATE))
        await audience.has_so_many("north", 150)
        await asyncio.to_thread(active.kill)
        arrived = len(audience.numbers["north"])
        # What was in flight may still come: a second's worth is more than that.
        await audience.has_so_many("north", arrived + int(2 * RATE))
        await publishing
        await audience.gets("north", 1_200)


async def test_a_worker_that_is_told_to_end_sends_what_it_has_and_ends_well(
    two: list[Site],
) -> None:
    north, south = two
    worker = north.start_worker()
    await is_at(north, "south", "connected")
    async with Audience(south.url) as audience:
        await publish(north.url, "north", 2_000)
        assert await asyncio.to_thread(worker.terminate) == 0
        worker.start()
        await audience.gets("north", 2_000)
    assert "Traceback" not in worker.log


async def test_worker_survives_its_server(two: list[Site]) -> None:
    """It is there before the server is, and stays when the server goes."""
    north, south = two
    await asyncio.to_thread(north.server.kill)
    worker = north.start_worker("--server-url", north.url)
    assert f"forwarding the publications of {north.url}" in worker.log
    assert "--server-url is not used" not in worker.log
    await is_at(north, "south", "connected")
    await asyncio.to_thread(north.server.start)
    async with Audience(south.url) as audience:
        await wait_until_async(lambda: "connected to the server" in worker.log, 20)
        await publish(north.url, "north", 100)
        await audience.gets("north", 100)
        await asyncio.to_thread(north.server.restart)
        await publish(north.url, "after", 100)
        await audience.gets("after", 100)
    assert "Traceback" not in worker.log


async def test_a_peer_may_be_away_at_the_start_and_come_and_go(two: list[Site]) -> None:
    north, south = two
    await asyncio.to_thread(south.server.kill)
    north.start_worker()
    await is_at(north, "south", "backing_off")
    await publish(north.url, "early", 300)
    await asyncio.to_thread(south.server.start)
    # Those who were there before the link get all of it.
    async with Audience(south.url) as audience:
        publishing = asyncio.create_task(publish(north.url, "north", 1_000, rate=RATE))
        await is_at(north, "south", "connected", 40)
        await publishing
        await audience.gets("north", 1_000)
    assert north.peer("south")["dropped"] == 0
