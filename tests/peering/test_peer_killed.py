"""The peer is killed under load, and its log lasts: it knows after its start what it had before."""

import asyncio
import json
import random
from collections.abc import Mapping

from websockets.asyncio.client import connect

from tests.peering.conftest import MakeSites
from tests.peering.test_mesh import is_at
from tests.peering.traffic import TOPIC, publish_until
from tests.processes import wait_until_async

# Messages a second: the logs keep them all, however long the peer takes to start.
RATE = 200.0
IN_THE_DATABASE: Mapping[str, object] = {
    "BROKER": {"BACKEND": "dwsps_channels.broker.backends.DatabaseBackend"}
}


async def kept(url: str) -> list[int]:
    """Return the numbers that the log at ``url`` has, in its order."""
    found: list[int] = []
    async with connect(url, compression=None, max_queue=None) as connection:
        await connection.send(json.dumps({"type": "subscribe", "topic": TOPIC, "last": 10_000}))
        async for frame in connection:
            message = json.loads(frame)
            if message["type"] == "ack":
                break
            found.append(message["message"][1])
    return found


async def test_each_message_is_in_its_log_once_and_in_order(make_sites: MakeSites) -> None:
    north, south = make_sites("north", "south")
    south.dwsps = dict(IN_THE_DATABASE)
    north.start_server()
    south.start_server()
    south.add_peer("north", north.url, "--no-forward")
    north.add_peer("south", south.url)
    north.start_worker()
    await is_at(north, "south", "connected")
    done = asyncio.Event()
    publishing = asyncio.create_task(publish_until(done, north.url, "north", RATE))
    moments = random.Random(11)
    # What counts is a kill that hits it between a message and its ack.
    kills = 0
    while kills < 2 or (not north.peer("south")["resent"] and kills < 10):
        acked = north.peer("south")["acked"]
        await wait_until_async(
            lambda: north.peer("south")["acked"] > acked + 100,  # noqa: B023
        )
        await asyncio.sleep(moments.uniform(0.0, 0.5))  # any moment will do
        await asyncio.to_thread(south.server.kill)
        await asyncio.to_thread(south.server.start)
        kills += 1
    done.set()
    count = await publishing
    await wait_until_async(
        lambda: north.peer("south")["acked"] + north.peer("south")["dropped"] == count, 60
    )
    assert await kept(south.url) == list(range(count))
    assert north.peer("south")["resent"] > 0
