"""The server under test: four processes of four kinds on one Redis, and what is done to them."""

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import redis

from tests.processes import (
    HOST,
    Child,
    Redis,
    Server,
    ServerFactory,
    base_environment,
    free_port,
    require,
    wait_until,
)

KINDS = ("daphne", "uvicorn", "fastlane", "serve")
MASTER = "chaos"
DOWN_AFTER = 3000
"""Milliseconds after which the Sentinel takes a silent Redis for dead: longer than a busy machine lets one wait for its turn."""


class KeepingRedis(Redis):
    """A redis-server that has everything it acknowledged on disk."""

    data: Path

    @classmethod
    def make(cls, folder: Path) -> Self:
        port = free_port()
        data = folder / f"redis-{port}"
        data.mkdir()
        command = [
            *(require("redis-server"), "--bind", HOST, "--port", str(port), "--dir", str(data)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
            *("--repl-diskless-sync-delay", "0"),
        ]
        server = cls(
            f"redis-{port}", command, port=port, env={"PATH": os.environ["PATH"]}, folder=folder
        )
        server.data = data
        return server

    def forget(self) -> None:
        """Remove what it has on disk, while it is not running."""
        shutil.rmtree(self.data)
        self.data.mkdir()

    def follow(self, port: int) -> None:
        """Be the replica of another on this port."""
        with self._connected() as connection:
            connection.replicaof(HOST, port)

    def is_master(self) -> bool:
        with self._connected() as connection:
            return bool(connection.info("replication")["role"] == "master")

    def has_all(self) -> bool:
        """Return whether it is a replica and receives what its master has."""
        with self._connected() as connection:
            return bool(connection.info("replication").get("master_link_status") == "up")

    def _connected(self) -> redis.Redis:
        return redis.Redis(host=HOST, port=self.port, decode_responses=True)


class Sentinel(Child):
    """A Redis Sentinel that decides alone."""

    @classmethod
    def make(cls, folder: Path, master: Redis) -> Self:
        port = free_port()
        config = folder / f"sentinel-{port}.conf"
        config.write_text(
            f"bind {HOST}\nport {port}\ndir {folder}\n"
            f"sentinel monitor {MASTER} {HOST} {master.port} 1\n"
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER}\n"
            f"sentinel failover-timeout {MASTER} 3000\n"
        )
        return cls(
            f"sentinel-{port}",
            [require("redis-server"), str(config), "--sentinel"],
            port=port,
            env={"PATH": os.environ["PATH"]},
            folder=folder,
        )

    def master_port(self) -> int:
        """Return the port of the master as it knows it."""
        with self._connected() as sentinel:
            answer = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return int(answer[1])

    def replicas(self) -> int:
        """Return how many replicas of the master it knows."""
        with self._connected() as sentinel:
            return len(sentinel.execute_command("SENTINEL", "REPLICAS", MASTER))

    def _connected(self) -> redis.Redis:
        return redis.Redis(host=HOST, port=self.port, decode_responses=True)


class Cluster:
    """Four server processes, started."""

    def __init__(self, start_server: ServerFactory, layer: dict[str, object]) -> None:
        env = {"TEST_CHANNEL_LAYER": json.dumps(layer)}
        self.servers: list[Server] = []
        for kind in KINDS:
            if kind == "serve":
                self.servers.append(_serve(start_server, env))
            else:
                self.servers.append(start_server(kind, env=env))
        self._moments = random.Random(7)

    async def kill_one(self) -> Server:
        """Kill a process as a crash would, start it again on its port, and return it."""
        victim = self._moments.choice(self.servers)
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(self._moments.uniform(0.0, 0.3))
        await asyncio.to_thread(victim.start)
        return victim


def _serve(start_server: ServerFactory, env: dict[str, str]) -> Server:
    port = free_port()
    environment = base_environment(start_server.database) | env
    server = Server(
        f"serve-{len(start_server.servers) + 1}",
        [sys.executable, "manage.py", "runpubsub", "--serve", f"{HOST}:{port}"],
        port=port,
        env=environment,
        folder=start_server.folder,
    )
    start_server.servers.append(server)
    return server.start()


@contextlib.contextmanager
def stopped(child: Child) -> Iterator[None]:
    """Meanwhile the process does not run, and its connections stay."""
    child.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        child.signal(signal.SIGCONT)


class Replicated:
    """A master, a replica of it and a Sentinel."""

    def __init__(self, folder: Path, children: list[Child]) -> None:
        self.master = KeepingRedis.make(folder)
        self.replica = KeepingRedis.make(folder)
        children += [self.master, self.replica]
        self.master.start()
        self.replica.start()
        self.follow()
        self.sentinel = Sentinel.make(folder, self.master)
        children.append(self.sentinel)
        self.sentinel.start()
        wait_until(lambda: self.sentinel.replicas() == 1, what="the Sentinel knows the replica")

    @property
    def layer(self) -> dict[str, object]:
        return redis_layer({"sentinels": [[HOST, self.sentinel.port]], "master_name": MASTER})

    def follow(self) -> None:
        """Have the replica follow the master, and wait until it has all of it."""
        self.replica.follow(self.master.port)
        wait_until(self.replica.has_all, what="the replica has all")

    def cut(self) -> None:
        """Have the replica lag: it gets nothing more from the master."""
        self.replica.follow(free_port())

    def is_moved(self) -> bool:
        """Return whether the replica is the master now."""
        return self.sentinel.master_port() == self.replica.port and self.replica.is_master()

    def swap(self) -> None:
        """Take note that the replica is the master, and have the other follow it."""
        self.master, self.replica = self.replica, self.master
        if self.replica.exit_status is not None:
            self.replica.start()
        self.follow()


def redis_layer(host: object) -> dict[str, object]:
    """Return the entry of CHANNEL_LAYERS for this host."""
    return {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [host], "capacity": 10_000},
    }
