"""A connection that is cut without notice to either side."""

import asyncio

from tests.peering.conftest import MakeSites
from tests.peering.site import QUICK
from tests.peering.test_mesh import is_at, start
from tests.peering.traffic import Audience, publish
from tests.processes import wait_until_async
from tests.proxy import proxy_to

# A link notices within the sum of both that nobody is there. An attempt to reconnect, too, ends without an answer.
HEARTBEATS = {"LINK_HEARTBEAT_INTERVAL": 1.0, "LINK_HEARTBEAT_TIMEOUT": 2.0}
ATTEMPTS = {"LINK_OPEN_TIMEOUT": 1.0}
COUNT = 600


async def test_a_connection_that_is_cut_without_notice_loses_nothing(make_sites: MakeSites) -> None:
    north, south = make_sites("north", "south", timings=QUICK | HEARTBEATS | ATTEMPTS)
    await start(north, south)
    south.add_peer("north", north.url, "--no-forward")
    async with proxy_to(south.port) as proxy:
        north.add_peer("south", f"ws://127.0.0.1:{proxy.port}")
        await is_at(north, "south", "connected")
        async with Audience(south.url) as audience:
            publishing = asyncio.create_task(publish(north.url, "north", COUNT, rate=50))
            await audience.has_so_many("north", 50)
            proxy.cut()
            taken = proxy.accepted
            await wait_until_async(
                lambda: north.peer("south")["state"] != "connected", what="the cut is noticed"
            )
            # Attempts to reconnect come to the proxy, and no further.
            await wait_until_async(
                lambda: proxy.accepted >= taken + 3, 20, "the link tries again and again"
            )
            assert not audience.has("north", COUNT)
            proxy.mend()
            await publishing
            await audience.gets("north", COUNT)
    # The worker writes its counters with its next poll.
    await wait_until_async(lambda: north.peer("south")["resent"] > 0)
