"""A peer's messages survive when the process that takes them is killed, and another has the subscribers."""

import asyncio
import random

import pytest

from tests.peering.conftest import MakeSites
from tests.peering.test_mesh import is_at
from tests.peering.traffic import Audience, publish_until
from tests.processes import Redis, free_port

RATE = 200.0  # messages a second


@pytest.mark.full_form
async def test_every_process_of_a_server_knows_what_was_seen(
    make_sites: MakeSites, redis: Redis
) -> None:
    """The link leads to one process, the subscriber is at the other, and the first is killed while the link is busy."""
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
    async with Audience(second.url) as audience:
        killed = asyncio.Event()
        publishing = asyncio.create_task(publish_until(killed, north.url, "north", RATE))
        for _ in range(6):
            # The link is back, and any moment will do.
            await audience.has_so_many("north", len(audience.numbers["north"]) + 1)
            await asyncio.sleep(moments.uniform(0.0, 1.0))
            await asyncio.to_thread(first.kill)
            await asyncio.to_thread(first.start)
        killed.set()
        count = await publishing
        # What has gathered meanwhile takes a round trip to Redis each.
        await audience.gets("north", count, 120)
    assert north.peer("south")["dropped"] == 0
