"""What happens to messages when processes are killed and connections are cut."""

import asyncio
import random

from tests.peering.conftest import MakeSites
from tests.peering.proxy import proxy_to
from tests.peering.site import Site
from tests.peering.test_mesh import connect, is_at, start
from tests.peering.traffic import Audience, publish
from tests.processes import Redis, free_port, wait_until_async

RATE = 200.0  # messages a second


async def two(make_sites: MakeSites) -> tuple[Site, Site]:
    """North forwards to south."""
    north, south = make_sites("north", "south")
    north.start_server()
    south.start_server()
    south.add_peer("north", north.url, "--no-forward")
    north.add_peer("south", south.url)
    return north, south


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
        killed = asyncio.get_running_loop().time()
        arrived = len(audience.numbers["north"])
        # What was in flight may still come: a second's worth is more than that.
        await audience.has_so_many("north", arrived + int(2 * RATE))
        assert asyncio.get_running_loop().time() - killed < 10
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
        assert await asyncio.to_thread(worker.terminate, 15) == 0
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


async def test_every_process_of_a_server_knows_what_was_seen(
    make_sites: MakeSites, redis: Redis
) -> None:
    """The link leads to one process, the subscriber is at the other, and the first is killed ten times."""
    north, south = make_sites("north", "south")
    north.start_server()
    south.redis = redis
    first = south.start_server()
    second = south.start_server(port=free_port())
    south.add_peer("north", north.url, "--no-forward")
    north.add_peer("south", south.url)
    north.start_worker()
    await is_at(north, "south", "connected")
    moments = random.Random(7)
    count = 6_000
    async with Audience(second.url) as audience:
        publishing = asyncio.create_task(publish(north.url, "north", count, rate=RATE))
        for _ in range(10):
            await asyncio.sleep(moments.uniform(0.1, 3.0))  # any moment will do
            await asyncio.to_thread(first.kill)
            await asyncio.to_thread(first.start)
        await publishing
        await audience.gets("north", count)
    assert north.peer("south")["dropped"] == 0


CUT_SECONDS = 60.0


async def test_a_connection_that_is_cut_without_a_word_loses_nothing(make_sites: MakeSites) -> None:
    north, south = make_sites("north", "south")
    await start(north, south)
    south.add_peer("north", north.url, "--no-forward")
    async with proxy_to(south.port) as proxy:
        north.add_peer("south", f"ws://127.0.0.1:{proxy.port}")
        await is_at(north, "south", "connected")
        async with Audience(south.url) as audience:
            publishing = asyncio.create_task(publish(north.url, "north", 4_000, rate=50))
            await audience.has_so_many("north", 100)
            loop = asyncio.get_running_loop()
            proxy.cut()
            cut = loop.time()
            # It is noticed within 45 s: then it tries again, and again.
            await wait_until_async(lambda: north.peer("south")["state"] != "connected", 45)
            await wait_until_async(lambda: loop.time() - cut >= CUT_SECONDS, CUT_SECONDS + 5)
            proxy.mend()
            await publishing
            await audience.gets("north", 4_000, 90)
    assert north.peer("south")["resent"] > 0


async def test_connecting_two_sites_needs_nothing_but_rows(make_sites: MakeSites) -> None:
    sites = make_sites("north", "south")
    await start(*sites)
    await connect((sites[0], sites[1]), (sites[1], sites[0]))
