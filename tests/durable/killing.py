"""Processes that are killed between the commit of a durable message and the end of its row.

The short form has six kills for each broker, on one database; ``TESTS=release`` has a hundred for each pair of them.
"""

import asyncio
import http.client
import json
import sqlite3
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.durable.crasher import BEFORE_COMMIT, BEFORE_DELETE, BEFORE_LOG, MOMENTS
from tests.form import RELEASE
from tests.peering.site import Worker
from tests.processes import ROOT, Child, Server, manage, wait_until_async
from tests.wire.client import WireClient, connected

KILLS = 99 if RELEASE else 6

SENT_WITHIN = 10.0 if RELEASE else 20.0
"""Seconds from the kill to the delivery: as docs/how-to/publishing.md promises, or twice that on a machine that runs other tests."""

OTHER_DATABASES = {"other": "TEST_OTHER_DATABASE", "by_hand": "TEST_BY_HAND_DATABASE"}
"""The aliases of the databases that a site may have beside its own, and the variables that name their SQLite files."""

MEMORY, DATABASE, REDIS = "MemoryBackend", "DatabaseBackend", "RedisBackend"
SQLITE, POSTGRES = "sqlite", "postgres"


def start_worker(server: Server, folder: Path, children: list[Child], *arguments: str) -> Worker:
    number = len(children) + 1
    command = [sys.executable, "manage.py", "runpubsub", *arguments]
    worker = Worker(f"worker-{number}", command, port=0, env=server.env, folder=folder)
    children.append(worker)
    return worker.start()


class Received:
    """The messages that a subscriber of ``news`` has received, with the time of each."""

    def __init__(self, client: WireClient) -> None:
        self.messages: list[Any] = []
        self.times: dict[Any, float] = {}
        self._reading = asyncio.create_task(self._read(client))

    async def _read(self, client: WireClient) -> None:
        while True:
            frame = await client.receive(600)
            if frame["type"] == "publish":
                self.messages.append(frame["message"])
                self.times.setdefault(frame["message"], time.time())

    def end(self) -> None:
        self._reading.cancel()


async def run_crasher(env: dict[str, str], moments: Sequence[str]) -> list[float]:
    """Return when each child was killed."""
    crasher = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.durable.crasher", *moments),
        cwd=ROOT,
        env=env,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(crasher.communicate(), 120)
    assert crasher.returncode == 0
    return [float(line) for line in out.split()]


async def rows(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        await asyncio.to_thread(manage, "durable", "list", "--json", env=server.env)
    )
    return found


async def all_rows_go(server: Server) -> None:
    """Wait until no database of the server has a durable message."""
    # Asked themselves, which takes a hundredth of the time of a command.
    with ExitStack() as stack:
        databases = [stack.enter_context(closing(_connect(url))) for url in _urls(server)]

        def is_empty(database: Any) -> bool:
            rows = database.execute("SELECT 1 FROM dwsps_channels_durablemessage LIMIT 1")
            return rows.fetchone() is None

        # A message that the server has not taken in time is tried again some seconds later.
        await wait_until_async(lambda: all(map(is_empty, databases)), 60, "no row is left")


def _urls(server: Server) -> list[str]:
    others = [server.env[name] for name in OTHER_DATABASES.values() if name in server.env]
    return [server.env["DATABASE_URL"], *(f"sqlite:///{file}" for file in others)]


def _connect(url: str) -> Any:
    if url.startswith("sqlite"):
        return sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    return psycopg.connect(url, autocommit=True)


async def crash_page(url: str) -> None:
    """Get a page whose process is killed."""

    def get() -> None:
        # URLError, if it cannot connect, and HTTPError, an answer, are others.
        with (
            pytest.raises(http.client.RemoteDisconnected),
            # A process that takes the place of a killed one may start slowly.
            urllib.request.urlopen(url, timeout=60),
        ):
            pass

    await asyncio.to_thread(get)


def logged(server: Server) -> list[Any]:
    """All messages of the log, the duplicates included."""
    source = "import json; from dwsps_channels import history; print(json.dumps([each.message for each in history('news').messages]))"
    found: list[Any] = json.loads(manage("shell", "-c", source, env=server.env).splitlines()[-1])
    return found


async def sent_once_within_ten_seconds(server: Server, folder: Path, children: list[Child]) -> None:
    """Kill processes that publish and serve nothing, and see to what a subscriber gets."""
    start_worker(server, folder, children)
    async with connected(server.url) as client:
        await client.subscribe("news")
        received = Received(client)
        moments = [MOMENTS[number % len(MOMENTS)] for number in range(KILLS)]
        # What is never committed never comes.
        killed_at = await run_crasher(server.env, [*moments, BEFORE_COMMIT])
        await wait_until_async(lambda: len(set(received.messages)) >= KILLS, 60)
        # What the log had before its process died is swept as well, if it were to come twice.
        await all_rows_go(server)
        manage(
            "shell",
            "-c",
            "from dwsps_channels import publish; publish('news', 'end')",
            env=server.env,
        )
        await wait_until_async(lambda: "end" in received.messages)
        received.end()
    assert sorted(received.messages[:-1]) == list(range(KILLS))
    delays = [received.times[number] - killed_at[number] for number in range(KILLS)]
    assert max(delays) < SENT_WITHIN, delays


async def pages_killed(server: Server, folder: Path, children: list[Child]) -> None:
    """Kill a server in its own pages. The log outlives it, and the log's memory of keys."""
    server.terminate()
    server.env["DJANGO_SETTINGS_MODULE"] = "tests.durable.site_settings"
    server.command = [*server.command[:-1], "tests.durable.site:asgi"]
    server.start()
    start_worker(server, folder, children)
    pages = [
        *(f"crash/{each}" for each in MOMENTS),
        *(f"acrash/{each}" for each in (BEFORE_LOG, BEFORE_DELETE)),
    ]
    for number, page in enumerate(pages):
        await crash_page(f"{server.http_url}/{page}/{number}")
        server.wait()
        server.start()
    await all_rows_go(server)
    assert sorted(logged(server)) == list(range(len(pages)))


async def server_and_worker_killed(server: Server, folder: Path, children: list[Child]) -> None:
    """Kill what publishes, then the worker and the server."""
    worker = start_worker(server, folder, children)
    await run_crasher(server.env, MOMENTS)
    worker.kill()
    server.kill()
    server.start()
    worker.start()
    await all_rows_go(server)
    assert sorted(logged(server)) == list(range(len(MOMENTS)))
