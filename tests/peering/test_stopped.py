"""A worker that is stopped for longer than its lease lasts, and then goes on beside the one that took over."""

import asyncio
import signal
import sqlite3
from contextlib import closing

import pytest

from dwsps_channels.peering.outbound.window import IN_FLIGHT_MESSAGES
from tests.peering.conftest import MakeSites
from tests.peering.far_server import FarServer
from tests.peering.site import Site, Worker
from tests.peering.test_killed import TIMINGS, connect
from tests.peering.test_mesh import is_at
from tests.peering.traffic import Audience, publish, publish_until
from tests.processes import wait_until_async

RATE = 200.0  # messages a second

CLOSED = "stopped for longer than its lease lasts"
LOST = "the lease was lost to another worker; standing by"


async def start_two(north: Site, peer: str) -> tuple[Worker, Worker]:
    """Start a worker and a standby."""
    active, standby = north.start_worker(), north.start_worker()
    assert "standing by" in standby.log
    await is_at(north, peer, "connected")
    return active, standby


async def stop(north: Site, worker: Worker) -> None:
    """Stop a worker, but not in the middle of a transaction: nobody else could write to SQLite then."""

    def is_stopped() -> bool:
        worker.suspend()
        try:
            with closing(sqlite3.connect(north.database, timeout=1.0)) as database:
                database.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            worker.process.send_signal(signal.SIGCONT)
            return False
        return True

    await wait_until_async(lambda: asyncio.to_thread(is_stopped), 20, "it is stopped")


async def taken_over(standby: Worker) -> None:
    await wait_until_async(lambda: "forwarding the publications" in standby.log, 20, "a take-over")


@pytest.mark.full_form
async def test_nothing_is_lost_or_comes_twice_or_out_of_order(make_sites: MakeSites) -> None:
    north, south = make_sites("north", "south", timings=TIMINGS)
    for site in (north, south):
        site.start_server()
    connect(north, south)
    active, standby = await start_two(north, "south")
    async with Audience(south.url) as audience:
        done = asyncio.Event()
        publishing = asyncio.create_task(publish_until(done, north.url, "north", RATE))
        await audience.has_so_many("north", 300)
        for stopped, other in ((active, standby), (standby, active)):
            before = other.log.count("forwarding the publications")
            await stop(north, stopped)
            await wait_until_async(
                lambda: other.log.count("forwarding the publications") > before,  # noqa: B023
                20,
                "a take-over",
            )
            await audience.has_so_many("north", len(audience.numbers["north"]) + int(RATE))
            stopped.process.send_signal(signal.SIGCONT)
            await wait_until_async(lambda: LOST in stopped.log, 20, "it notices")  # noqa: B023
            await audience.has_so_many("north", len(audience.numbers["north"]) + int(RATE))
        done.set()
        await audience.gets("north", await publishing)
    assert north.peer("south")["missed"] == 0


async def test_it_sends_nothing_more_before_it_has_verified_its_lease(
    make_sites: MakeSites,
) -> None:
    [north] = make_sites("north", timings=TIMINGS)
    north.start_server()
    far = FarServer()
    far.answer = lambda frame: None
    await far.start()
    try:
        north.add_peer("far", far.url)
        active, standby = await start_two(north, "far")
        await publish(north.url, "north", 3 * IN_FLIGHT_MESSAGES)
        await wait_until_async(lambda: len(far.frames) == IN_FLIGHT_MESSAGES, 20)
        await stop(north, active)
        # The acks wait for it: once it goes on, there is room in its window.
        for frame in list(far.frames):
            await far.say(far.ack(frame))
        far.answer = far.ack
        await taken_over(standby)
        await wait_until_async(lambda: len(far.connections) == 2, 20)
        await wait_until_async(lambda: len(far.connections[1]) == 3 * IN_FLIGHT_MESSAGES, 20)
        active.process.send_signal(signal.SIGCONT)
        await wait_until_async(lambda: LOST in active.log, 20)
        await wait_until_async(lambda: len(far.sessions) == 1, 20)
    finally:
        await far.stop()
    assert CLOSED in active.log
    assert len(far.connections[0]) == IN_FLIGHT_MESSAGES
    numbers = [frame["id"] for frame in far.connections[1]]
    assert numbers == sorted(set(numbers))
