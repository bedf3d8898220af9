"""The peer is killed under load, and its log lasts: it knows after its start what it had before."""

import asyncio
import json
from collections.abc import Mapping

from websockets.asyncio.client import connect

from tests.peering.conftest import MakeSites
from tests.peering.test_mesh import is_at
from tests.peering.traffic import TOPIC, publish_until
from tests.processes import wait_until_async
from tests.proxy import proxy_to

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
    async with proxy_to(south.port) as proxy:
        north.add_peer("south", f"ws://127.0.0.1:{proxy.port}")
        north.start_worker()
        await is_at(north, "south", "connected")
        done = asyncio.Event()
        publishing = asyncio.create_task(publish_until(done, north.url, "north", RATE))
        for _ in range(2):
            acked = north.peer("south")["acked"]
            await wait_until_async(
                lambda: north.peer("south")["acked"] > acked + 100,  # noqa: B023
                20,
            )
            # From now on it has messages of which the worker does not know that.
            proxy.hold()
            had = len(await kept(south.url))

            async def has_more() -> bool:
                return len(await kept(south.url)) > had + 20  # noqa: B023

            await wait_until_async(has_more, 20)
            await asyncio.to_thread(south.server.kill)
            proxy.flow()
            await asyncio.to_thread(south.server.start)
        done.set()
        count = await publishing
        await wait_until_async(
            lambda: north.peer("south")["acked"] + north.peer("south")["dropped"] == count, 60
        )
        assert await kept(south.url) == list(range(count))
        assert north.peer("south")["resent"] > 0
