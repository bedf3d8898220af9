"""A connection that is cut without a word to either side."""

import asyncio

from tests.peering.conftest import MakeSites
from tests.peering.proxy import proxy_to
from tests.peering.test_mesh import is_at, start
from tests.peering.traffic import Audience, publish
from tests.processes import wait_until_async

CUT_DURATION = 60.0


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
            await wait_until_async(lambda: loop.time() - cut >= CUT_DURATION, CUT_DURATION + 5)
            proxy.mend()
            await publishing
            await audience.gets("north", 4_000, 90)
    assert north.peer("south")["resent"] > 0
