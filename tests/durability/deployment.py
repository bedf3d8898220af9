"""Two servers, or three: north, on the broker of the trial, forwards to south, and to west if it is there."""

import asyncio
import json
import random
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.chaos.cluster import KeepingRedis
from tests.peering.site import Site, Worker
from tests.peering.test_stopped import stop
from tests.processes import (
    Child,
    Postgres,
    Redis,
    Server,
    base_environment,
    free_port,
    manage,
    postgres_server,
    wait_until_async,
)

BACKENDS = {
    "memory": "MemoryBackend",
    "sqlite": "DatabaseBackend",
    "postgres": "DatabaseBackend",
    "redis": "RedisBackend",
}
"""The brokers; ``sqlite`` and ``postgres`` are the database broker on each."""

READ_WITHIN = 2.0
"""Seconds in which a worker that is there has read what was acknowledged, on a busy machine as well."""


class Deployment:
    """The processes of all, and what is done to them."""

    def __init__(
        self, north: Site, south: Site, others: Sequence[Site], broker: str, keeper: Child | None
    ) -> None:
        self.north = north
        self.south = south
        self.others = others
        """Further peers of north, to which nothing is done."""
        self.broker = broker
        self.keeper = keeper
        """The Redis or PostgreSQL that has north's log."""
        self.south_keeper: Child | None = None
        """The Redis that has south's log."""
        self.servers: list[Server] = []
        self.workers: list[Worker] = []
        self.moments = random.Random(f"{broker}")
        self.kills = 0
        self.unread: list[tuple[float, float]] = []
        """Spans of the monotonic clock, each up to the end of a process: the worker need not have read what was acknowledged then."""
        self.database_fails = False
        """True if what has the log, or the database, was taken away: processes may say how that fails."""
        self._away_since: float | None = None

    @property
    def keeps_log(self) -> bool:
        """True if north's log outlives its processes."""
        return self.broker != "memory"

    @property
    def worker(self) -> Worker:
        return self.workers[0]

    @property
    def server(self) -> Server:
        return self.servers[0]

    async def start(self, *, processes: int, serve: bool, workers: int, south_url: str) -> None:
        """Start both, connect them, and wait for nothing: what is published from now on is south's, too."""
        start = self.north.start_serving if serve else self._start_fastlane
        for peer in (self.south, *self.others):
            await asyncio.to_thread(peer.start_server, "fastlane")
        for number in range(processes):
            port = free_port() if number else self.north.port
            self.servers.append(await asyncio.to_thread(start, port))
        self.south.add_peer("north", self.north.url, "--no-forward")
        self.north.add_peer("south", south_url)
        for peer in self.others:
            peer.add_peer("north", self.north.url, "--no-forward")
            self.north.add_peer(peer.name, peer.url)
        for _ in range(workers):
            self.workers.append(await asyncio.to_thread(self.north.start_worker))

    def _start_fastlane(self, port: int) -> Server:
        return self.north.start_server("fastlane", port)

    def take_note_of_end(self, victim: Child) -> None:
        """Take note that a process of north ends: without a log that outlives it, what the worker has not read ends with it."""
        now = time.monotonic()
        if victim in self.workers and self._away_since is None:
            self._away_since = now
        elif victim in self.servers:
            self.unread.append(((self._away_since or now) - READ_WITHIN, now))

    async def suspend(self, worker: Worker) -> None:
        """Stop a worker, but not in the middle of a transaction: its locks would last for as long as it is stopped."""
        if self.broker != "postgres":
            await stop(self.north, worker)
            return

        def is_suspended() -> bool:
            worker.suspend()
            try:
                with psycopg.connect(self.north.database_url) as connection:
                    connection.execute("SELECT FROM dwsps_channels_lease FOR UPDATE NOWAIT")
            except psycopg.errors.LockNotAvailable:
                worker.signal(signal.SIGCONT)
                return False
            return True

        await wait_until_async(lambda: asyncio.to_thread(is_suspended), 20, "it is stopped")

    async def end(self, process: Child) -> None:
        """Have a process end with SIGTERM."""
        if process in self.workers:
            self.take_note_of_end(process)
        await asyncio.to_thread(process.terminate)
        if process in self.servers:
            self.take_note_of_end(process)

    async def kill(self, *victims: Child, away: float = 0.0) -> None:
        """Kill them as a crash would, within a second of each other, and start them ``away`` seconds later."""
        for victim in victims:
            if victim is not victims[0]:
                await asyncio.sleep(self.moments.uniform(0.0, 0.5))
            await asyncio.to_thread(victim.kill)
            self.take_note_of_end(victim)
            self.kills += 1
        await asyncio.sleep(away)
        if self.keeper in victims:
            self.database_fails = True
            # The others do not start without it.
            await asyncio.to_thread(self.keeper.start)
        await asyncio.gather(
            *(asyncio.to_thread(victim.start) for victim in victims if victim is not self.keeper)
        )
        if self.workers and self.workers[0] in victims:
            self._away_since = None

    async def pause(self, least: float, most: float) -> None:
        """Let the traffic go on for a while, so that what comes next hits it at any moment."""
        await asyncio.sleep(self.moments.uniform(least, most))

    def status(self) -> dict[str, Any]:
        """Return what ``peers list`` says of south."""
        statuses = json.loads(self.north.peers("list", "--json"))
        return dict(next(status for status in statuses if status["name"] == "south"))

    def check(self) -> None:
        """Check that no process has failed."""
        if self.database_fails:
            return
        peers = [peer.server for peer in (self.south, *self.others)]
        for child in (*self.servers, *self.workers, *peers):
            assert "Traceback" not in child.log, f"{child.name} has failed:\n{child.log[-5000:]}"


def make_deployment(
    broker: str,
    north: Site,
    south: Site,
    others: Sequence[Site],
    folder: Path,
    children: list[Child],
    *,
    dwsps: Mapping[str, object],
    south_broker: str,
    south_dwsps: Mapping[str, object],
) -> Deployment:
    """Return them without processes, but for the Redis or PostgreSQL."""
    keeper: Redis | Postgres | None = None
    if broker == "redis":
        keeper = north.redis = _start_redis(folder, children)
    elif broker == "postgres":
        keeper = postgres_server(folder, keeps_commits=True)
        children.append(keeper)
        keeper.start()
        north.database_url = keeper.url
        environment = base_environment(Path()) | {"DATABASE_URL": keeper.url}
        manage("migrate", "--verbosity", "0", env=environment)
    north.dwsps = {"BROKER": _backend(BACKENDS[broker]), **dwsps}
    south.dwsps = {"BROKER": _backend(BACKENDS[south_broker]), **south_dwsps}
    deployment = Deployment(north, south, others, broker, keeper)
    if south_broker == "redis":
        deployment.south_keeper = south.redis = _start_redis(folder, children)
    return deployment


def _start_redis(folder: Path, children: list[Child]) -> Redis:
    redis = KeepingRedis.make(folder)
    children.append(redis)
    return redis.start()


def _backend(name: str) -> dict[str, str]:
    return {"BACKEND": f"dwsps_channels.broker.backends.{name}"}
