"""Processes that are killed between the commit of a durable message and the end of its row.

The short form has a dozen kills for each pair of broker and database; ``CHAOS=full`` has a hundred.
"""

import asyncio
import http.client
import json
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.traffic import FULL
from tests.durable.crasher import BEFORE_COMMIT, MOMENTS
from tests.peering.site import Worker
from tests.processes import (
    HOST,
    ROOT,
    Child,
    Postgres,
    Redis,
    Server,
    ServerFactory,
    base_environment,
    free_port,
    manage,
    wait_until_async,
)
from tests.wire.client import WireClient, connected

KILLS = 99 if FULL else 12

SENT_WITHIN = 10.0
"""Seconds from the kill to the delivery, as docs/how-to/publishing.md promises."""

MEMORY, DATABASE, REDIS = "MemoryBackend", "DatabaseBackend", "RedisBackend"
SQLITE, POSTGRES = "sqlite", "postgres"


@pytest.fixture
def children() -> Iterator[list[Child]]:
    with Child.all_closed() as children:
        yield children


@pytest.fixture
def server(
    request: pytest.FixtureRequest, start_server: ServerFactory, broker: str, database_kind: str
) -> Server:
    env = {}
    if database_kind == POSTGRES:
        postgres: Postgres = request.getfixturevalue("postgres")
        env["DATABASE_URL"] = postgres.url
        # It is the module's, and its log may have messages of other tests.
        manage("flush", "--no-input", "--verbosity", "0", env=base_environment(Path()) | env)
    if broker == REDIS:
        redis: Redis = request.getfixturevalue("redis")
        env["REDIS_URL"] = redis.url
    server = start_server(
        "fastlane",
        env=env,
        dwsps={"BROKER": {"BACKEND": f"dwsps_channels.broker.backends.{broker}"}},
    )
    server.env["DWSPS_SERVER_URL"] = f"{server.url}/ws/pubsub/"
    return server


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


async def no_row_is_left(server: Server) -> bool:
    return await rows(server) == []


@pytest.mark.processes
@pytest.mark.parametrize(
    ("broker", "database_kind"),
    [
        (MEMORY, SQLITE),
        (MEMORY, POSTGRES),
        (DATABASE, SQLITE),
        (DATABASE, POSTGRES),
        (REDIS, SQLITE),
        (REDIS, POSTGRES),
    ],
)
async def test_what_was_committed_is_sent_once_within_ten_seconds(
    server: Server, tmp_path: Path, children: list[Child]
) -> None:
    start_worker(server, tmp_path, children)
    async with connected(server.url) as client:
        await client.subscribe("news")
        received = Received(client)
        moments = [MOMENTS[number % len(MOMENTS)] for number in range(KILLS)]
        # What is never committed never comes.
        killed_at = await run_crasher(server.env, [*moments, BEFORE_COMMIT])
        await wait_until_async(lambda: len(set(received.messages)) >= KILLS, 30)
        # What the log had before its process died is swept as well, if it were to come twice.
        await wait_until_async(lambda: no_row_is_left(server), 30)
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


async def crash_page(url: str) -> None:
    """Get a page whose process is killed."""

    def get() -> None:
        # URLError, if it cannot connect, and HTTPError, an answer, are others.
        with (
            pytest.raises(http.client.RemoteDisconnected),
            urllib.request.urlopen(url, timeout=10),
        ):
            pass

    await asyncio.to_thread(get)


def logged(server: Server) -> list[Any]:
    """All messages of the log, the duplicates included."""
    source = "import json; from dwsps_channels import history; print(json.dumps([each.message for each in history('news').messages]))"
    found: list[Any] = json.loads(manage("shell", "-c", source, env=server.env).splitlines()[-1])
    return found


@pytest.mark.processes
@pytest.mark.parametrize("page", ["crash", "acrash"])
@pytest.mark.parametrize(("broker", "database_kind"), [(DATABASE, SQLITE), (REDIS, POSTGRES)])
async def test_a_process_that_serves(
    server: Server, tmp_path: Path, children: list[Child], page: str
) -> None:
    """The log outlives it, and the log's memory of keys."""
    server.terminate()
    server.env["DJANGO_SETTINGS_MODULE"] = "tests.durable.site_settings"
    server.command = [*server.command[:-1], "tests.durable.site:asgi"]
    server.start()
    start_worker(server, tmp_path, children)
    for number, moment in enumerate(MOMENTS[1:] if page == "acrash" else MOMENTS):
        await crash_page(f"{server.http_url}/{page}/{moment}/{number}")
        server.wait()
        server.start()
    await wait_until_async(lambda: no_row_is_left(server), 30)
    assert sorted(logged(server)) == list(range(2 if page == "acrash" else 3))


@pytest.mark.processes
@pytest.mark.parametrize(("broker", "database_kind"), [(MEMORY, SQLITE)])
async def test_a_worker_of_gunicorn(server: Server, tmp_path: Path, children: list[Child]) -> None:
    start_worker(server, tmp_path, children)
    port = free_port()
    pages = Child(
        "gunicorn",
        [sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{port}", "tests.durable.site"],
        port=port,
        env={
            **server.env,
            "DJANGO_SETTINGS_MODULE": "tests.durable.site_settings",
            "HOME": str(tmp_path),
        },
        folder=tmp_path,
    )
    children.append(pages)
    pages.start()
    for number, moment in enumerate(MOMENTS):
        await crash_page(f"http://{HOST}:{port}/crash/{moment}/{number}")
    await wait_until_async(lambda: no_row_is_left(server), 30)
    assert sorted(logged(server)) == [0, 1, 2]


@pytest.mark.processes
@pytest.mark.parametrize(("broker", "database_kind"), [(DATABASE, POSTGRES), (REDIS, SQLITE)])
async def test_the_server_and_the_worker_as_well(
    server: Server, tmp_path: Path, children: list[Child]
) -> None:
    worker = start_worker(server, tmp_path, children)
    await run_crasher(server.env, MOMENTS)
    worker.kill()
    server.kill()
    server.start()
    worker.start()
    await wait_until_async(lambda: no_row_is_left(server), 30)
    assert sorted(logged(server)) == [0, 1, 2]


IN_TRANSACTIONS = """
import sys
from django.db import transaction
from dwsps_channels import publish

def lay(database):
    with transaction.atomic(using=database):
        publish("news", f"{database}: committed", using=database, durable=True)
        with transaction.atomic(using=database):
            publish("news", "never: savepoint", using=database, durable=True)
            transaction.set_rollback(True, using=database)
    with transaction.atomic(using=database):
        publish("news", "never: rolled back", durable=True)
        transaction.set_rollback(True, using=database)
    connection = transaction.get_connection(database)
    connection.ensure_connection()
    connection.set_autocommit(False)
    publish("news", "never: rolled back by hand", using=database, durable=True)
    connection.rollback()
    publish("news", f"{database}: committed by hand", using=database, durable=True)
    connection.commit()
    connection.set_autocommit(True)

for database in DATABASES:
    lay(database)
"""


@pytest.mark.processes
@pytest.mark.parametrize(("broker", "database_kind"), [(MEMORY, SQLITE), (DATABASE, POSTGRES)])
async def test_transactions_of_every_kind(
    server: Server, tmp_path: Path, children: list[Child]
) -> None:
    start_worker(server, tmp_path, children)
    await asyncio.to_thread(
        manage, "shell", "-c", f"DATABASES = ['default']{IN_TRANSACTIONS}", env=server.env
    )
    await wait_until_async(lambda: no_row_is_left(server), 30)
    assert logged(server) == ["default: committed", "default: committed by hand"]


@pytest.mark.processes
@pytest.mark.parametrize(("broker", "database_kind"), [(MEMORY, SQLITE)])
async def test_two_databases(server: Server, tmp_path: Path, children: list[Child]) -> None:
    server.env["DJANGO_SETTINGS_MODULE"] = "tests.durable.site_settings"
    server.env["TEST_OTHER_DATABASE"] = str(tmp_path / "other.sqlite3")
    manage("migrate", "--database", "other", "--verbosity", "0", env=server.env)
    start_worker(server, tmp_path, children)
    source = f"DATABASES = ['default', 'other']{IN_TRANSACTIONS}"
    await asyncio.to_thread(manage, "shell", "-c", source, env=server.env)
    await wait_until_async(lambda: no_row_is_left(server), 30)
    assert sorted(logged(server)) == [
        "default: committed",
        "default: committed by hand",
        "other: committed",
        "other: committed by hand",
    ]


BY_HAND = """
from django.db import connections, transaction
from dwsps_channels import publish
connections["other"].ensure_connection()
publish("news", "committed", using="other", durable=True)
transaction.commit(using="other")
publish("news", "never", using="other", durable=True)
"""


@pytest.mark.processes
@pytest.mark.parametrize(("broker", "database_kind"), [(MEMORY, SQLITE)])
async def test_a_database_that_commits_nothing_by_itself(
    server: Server, tmp_path: Path, children: list[Child]
) -> None:
    server.env["DJANGO_SETTINGS_MODULE"] = "tests.durable.site_settings"
    server.env["TEST_OTHER_DATABASE"] = str(tmp_path / "other.sqlite3")
    manage("migrate", "--database", "other", "--verbosity", "0", env=server.env)
    server.env["TEST_OTHER_BY_HAND"] = "1"
    start_worker(server, tmp_path, children)
    await asyncio.to_thread(manage, "shell", "-c", BY_HAND, env=server.env)
    await wait_until_async(lambda: no_row_is_left(server), 30)
    assert logged(server) == ["committed"]


@pytest.mark.processes
async def test_a_worker_that_serves_publishes_in_its_server(
    database: Path, tmp_path: Path, children: list[Child]
) -> None:
    """Nobody has connected to it: its SERVER_URL leads nowhere."""
    env = base_environment(database) | {"DWSPS_SERVER_URL": f"ws://{HOST}:{free_port()}/ws/pubsub/"}
    await run_crasher(env, MOMENTS[:2])
    port = free_port()
    command = [sys.executable, "manage.py", "runpubsub", "--serve", f"{HOST}:{port}"]
    server = Server("serve", command, port=port, env=env, folder=tmp_path)
    children.append(server)
    server.start()
    await wait_until_async(lambda: no_row_is_left(server), 30)
    server.env["DWSPS_SERVER_URL"] = f"{server.url}/ws/pubsub/"
    assert sorted(logged(server)) == [0, 1]
    assert server.terminate() == 0
    assert "Traceback" not in server.log


@pytest.mark.processes
@pytest.mark.parametrize(("broker", "database_kind"), [(MEMORY, SQLITE)])
async def test_a_server_that_is_away_when_it_is_published(
    server: Server, tmp_path: Path, children: list[Child]
) -> None:
    worker = start_worker(server, tmp_path, children)
    server.terminate()
    source = "from dwsps_channels import publish; print(publish('news', 1, durable=True))"
    assert manage("shell", "-c", source, env=server.env).splitlines()[-1] == "None"
    await wait_until_async(lambda: "durable messages wait" in worker.log, 20)
    [waiting] = await rows(server)
    assert (waiting["topic"], waiting["messages"]) == ("news", 1)
    server.start()
    await wait_until_async(lambda: no_row_is_left(server), 30)
    assert logged(server) == [1]
    assert worker.log.count("durable messages wait") == 1
