"""What a peer's messages become when the process that takes them is killed, and another has the subscribers."""

import asyncio
import random

from tests.peering.conftest import MakeSites
from tests.peering.test_mesh import is_at
from tests.peering.traffic import Audience, publish
from tests.processes import Redis, free_port

RATE = 200.0  # messages a second


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
        # A link that broke so often waits up to 30 s; what has gathered then takes a round trip to Redis each.
        await audience.gets("north", count, 180)
    assert north.peer("south")["dropped"] == 0
