"""Two processes with the log in one database: one of them is the server."""

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.processes import ROOT, Server, ServerFactory, base_environment, wait_until_async
from tests.wire.client import WireClient, connected

BROKER = {"BACKEND": "dwsps_channels.broker.backends.DatabaseBackend"}


# A process keeps its lease however slow the machine is.
DWSPS: dict[str, Any] = {
    "BROKER": BROKER,
    "TIMINGS": {"LEASE_TIMEOUT": 600.0, "LEASE_RENEW_INTERVAL": 150.0},
}


async def is_refused(server: Server) -> bool:
    try:
        async with connect(server.url):
            return False
    except InvalidStatus as error:
        return error.response.status_code in (403, 503)  # Daphne knows no other than 403


async def serves(server: Server) -> bool:
    return not await is_refused(server)


async def resumed(server: Server, topic: str, since: str) -> tuple[list[Any], Any]:
    """Subscribe to ``topic`` since a cursor; return the messages and the ack."""
    async with connected(server.url) as client:
        await client.send({"type": "subscribe", "topic": topic, "since": since})
        messages = []
        while (frame := await client.receive())["type"] != "ack":
            messages.append(frame["message"])
        return messages, frame


@pytest.mark.parametrize("server_kind", ["daphne", "fastlane"])
async def test_another_process_takes_over_at_once_from_one_that_was_killed(
    server_kind: str, start_server: ServerFactory
) -> None:
    one = start_server(server_kind, dwsps=DWSPS)
    async with connected(one.url) as client:
        cursor = (await client.call("subscribe", "news"))["cursor"]
        await client.publish_and_receive("news", 1)
        two = start_server(server_kind, dwsps=DWSPS)
        assert await is_refused(two)
        assert "another process is this server" in two.log
        await client.publish_and_receive("news", 2)
        await asyncio.to_thread(one.kill)

    await wait_until_async(lambda: serves(two))

    messages, ack = await resumed(two, "news", cursor)
    assert (messages, ack["recovered"]) == ([1, 2], True)
    async with connected(two.url) as client:
        await client.publish("news", 3)


async def stand_still(server: Server, database: Path) -> None:
    """Stop a process, but not in the middle of a commit: until that goes on nobody can write to the database."""

    def is_stopped() -> bool:
        server.suspend()
        with closing(sqlite3.connect(database, timeout=0.0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                server.signal(signal.SIGCONT)
                return False
            connection.execute("ROLLBACK")
            return True

    await wait_until_async(is_stopped)


def end_lease(database: Path) -> None:
    """Have the lease of the log end, as after as many seconds as it is long."""
    with closing(sqlite3.connect(database)) as connection, connection:
        lease = connection.execute("UPDATE dwsps_channels_lease SET expires_at = '2020-01-01'")
        assert lease.rowcount == 1


async def test_a_process_that_stood_still_for_longer_than_its_lease_writes_nothing(
    start_server: ServerFactory,
) -> None:
    one = start_server("fastlane", dwsps=DWSPS)
    async with connected(one.url) as client:
        cursor = (await client.call("subscribe", "news"))["cursor"]
        await client.publish_and_receive("news", 1)
        two = start_server("fastlane", dwsps=DWSPS)
        assert await is_refused(two)
        await stand_still(one, start_server.database)
        end_lease(start_server.database)
        await wait_until_async(lambda: serves(two))
        async with connected(two.url) as other:
            await other.publish("news", 2)

            await client.send({"type": "publish", "topic": "news", "message": "late", "id": 1})
            one.signal(signal.SIGCONT)

            # What it is told, if anything, is no ack; and then it is sent to the other process.
            frames, code = await until_closed(client)
            assert code == 4200
            assert [frame for frame in frames if frame["type"] != "error"] == []
            await wait_until_async(lambda: is_refused(one))
            await other.publish("news", 3)
        messages, ack = await resumed(two, "news", cursor)
        assert (messages, ack["recovered"]) == ([1, 2, 3], True)


def test_a_process_that_ends_without_a_word_gives_the_lease_back(database: Path) -> None:
    """As one that reloads its code, and need not be on a system that shows which processes run."""
    code = """
import asyncio
from dwsps_channels.broker.backends import configured_backend
from dwsps_channels.broker.database import writer
from dwsps_channels.models import Lease

class Receiver:
    begin = exclude = receive = lambda *arguments: None

writer.EXIT_TIMEOUT = 30.0
asyncio.run(configured_backend().make_broker().start(Receiver()))
print("holder:", Lease.objects.holder_of("log"))
"""
    env = base_environment(database) | {"TEST_DWSPS": json.dumps(DWSPS)}
    ran = subprocess.run(
        [sys.executable, "manage.py", "shell", "--no-imports", "-c", code],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.split()) == 2, ran.stdout  # it had the lease
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT name, holder FROM dwsps_channels_lease").fetchall()
    assert rows == [("log", "")]


async def test_history_is_read_from_the_database_by_a_process_that_does_not_serve(
    start_server: ServerFactory,
) -> None:
    server = start_server("fastlane", dwsps={"BROKER": BROKER})
    async with connected(server.url) as client:
        for number in range(3):
            await client.publish("news.uk", number)
    await asyncio.to_thread(server.terminate)

    read = "from dwsps_channels import history; h = history('news'); print([m.message for m in h.messages], h.cursor)"
    printed = await asyncio.to_thread(server.manage, "shell", "--no-imports", "-c", read)

    messages, _, cursor = printed.strip().rpartition(" ")
    assert messages == "[0, 1, 2]"
    assert cursor.endswith(":3")


async def until_closed(client: WireClient) -> tuple[list[Any], int]:
    """Receive what comes until the connection is closed; return that, and the code."""
    frames = []
    try:
        while True:
            frames.append(await client.receive())
    except ConnectionClosed as closed:
        return frames, 0 if closed.rcvd is None else closed.rcvd.code
