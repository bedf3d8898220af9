"""Messages survive when workers and servers are killed."""

import asyncio

import pytest

from tests.peering.conftest import MakeSites
from tests.peering.site import Site
from tests.peering.test_mesh import is_at
from tests.peering.traffic import Audience, publish
from tests.processes import wait_until_async

RATE = 400.0  # messages a second


async def two(make_sites: MakeSites) -> tuple[Site, Site]:
    """North forwards to south."""
    north, south = make_sites("north", "south")
    north.start_server()
    south.start_server()
    south.add_peer("north", north.url, "--no-forward")
    north.add_peer("south", south.url)
    return north, south


@pytest.mark.full_form
async def test_messages_wait_for_a_worker_that_was_killed(make_sites: MakeSites) -> None:
    north, south = await two(make_sites)
    worker = north.start_worker()
    await is_at(north, "south", "connected")
    async with Audience(south.url) as audience:
        publishing = asyncio.create_task(publish(north.url, "north", 2_000, rate=RATE))
        for enough in (200, 700, 1_200):
            await audience.has_so_many("north", enough)
            await asyncio.to_thread(worker.kill)
            await asyncio.to_thread(worker.start)
        await publishing
        await audience.gets("north", 2_000)


async def test_a_standby_takes_over_from_a_worker_that_was_killed(make_sites: MakeSites) -> None:
    north, south = await two(make_sites)
    active = north.start_worker()
    standby = north.start_worker()
    assert "standing by" in standby.log
    await is_at(north, "south", "connected")
    async with Audience(south.url) as audience:
        publishing = asyncio.create_task(publish(north.url, "north", 2_400, rate=RATE))
        await audience.has_so_many("north", 300)
        await asyncio.to_thread(active.kill)
        arrived = len(audience.numbers["north"])
        # What was in flight may still come: a second's worth is more than that.
        await audience.has_so_many("north", arrived + int(2 * RATE))
        await publishing
        await audience.gets("north", 2_400)


async def test_a_worker_that_is_told_to_end_sends_what_it_has_and_ends_well(
    make_sites: MakeSites,
) -> None:
    north, south = await two(make_sites)
    worker = north.start_worker()
    await is_at(north, "south", "connected")
    async with Audience(south.url) as audience:
        await publish(north.url, "north", 3_000)
        assert await asyncio.to_thread(worker.terminate) == 0
        worker.start()
        await audience.gets("north", 3_000)
    assert "Traceback" not in worker.log


async def test_worker_survives_its_server(make_sites: MakeSites) -> None:
    """It is there before the server is, and stays when the server goes."""
    north, south = await two(make_sites)
    await asyncio.to_thread(north.server.kill)
    worker = north.start_worker()
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


async def test_a_peer_may_be_away_at_the_start_and_come_and_go(make_sites: MakeSites) -> None:
    north, south = await two(make_sites)
    await asyncio.to_thread(south.server.kill)
    north.start_worker()
    await is_at(north, "south", "backing_off")
    await publish(north.url, "early", 500)
    await asyncio.to_thread(south.server.start)
    # Those who were there before the link get all of it.
    async with Audience(south.url) as audience:
        publishing = asyncio.create_task(publish(north.url, "north", 2_000, rate=RATE))
        await is_at(north, "south", "connected", 40)
        await publishing
        await audience.gets("north", 2_000)
    assert north.peer("south")["dropped"] == 0
