"""The worker reads the log where the broker keeps it, whether the server runs or not."""

import asyncio

from tests.peering.conftest import MakeSites
from tests.peering.far_server import FarServer
from tests.peering.site import Site
from tests.peering.test_mesh import is_at
from tests.peering.traffic import publish
from tests.processes import Redis, wait_until_async

COUNT = 1_000  # several windows


async def gets_all(far: FarServer, count: int) -> None:
    await wait_until_async(lambda: len(far.frames) >= count, 30, f"{count} messages")
    assert [frame["message"][1] for frame in far.frames] == list(range(count))


async def missed_while_away(north: Site, broker: str) -> None:
    """Have a peer away while messages are published, and the server and a worker of north killed; it gets each once."""
    north.start_server()
    far = await FarServer().start()
    try:
        north.add_peer("far", far.url)
        # It takes no effect to name the server, and the log says so.
        worker = north.start_worker("--server-url", north.url)
        assert f"--server-url is not used: the log is read from {broker}" in worker.log
        assert f"forwarding the publications of this server, read from {broker}" in worker.log
        await is_at(north, "far", "connected")
        await publish(north.url, "north", 100)
        await gets_all(far, 100)
        await wait_until_async(lambda: north.peer("far")["acked"] == 100)
        await far.stop()
        await publish(north.url, "north", COUNT, first=100)
        await wait_until_async(lambda: north.peer("far")["lag"] == COUNT - 100, 20, "the lag")
        await asyncio.to_thread(north.server.kill)
        await asyncio.to_thread(worker.restart)
        await far.start()
        await gets_all(far, COUNT)
        await wait_until_async(lambda: north.peer("far")["lag"] == 0)
        assert north.peer("far")["dropped"] == 0
    finally:
        await far.stop()


async def test_in_redis(make_sites: MakeSites, redis: Redis) -> None:
    [north] = make_sites("north")
    north.redis = redis
    await missed_while_away(north, "RedisBackend")


async def test_in_the_database(make_sites: MakeSites) -> None:
    [north] = make_sites("north")
    north.dwsps = {"BROKER": {"BACKEND": "dwsps_channels.broker.backends.DatabaseBackend"}}
    await missed_while_away(north, "DatabaseBackend")
