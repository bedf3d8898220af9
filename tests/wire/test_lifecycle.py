"""The end of sessions and servers, and that they do not end before."""

import asyncio
import signal
import socket
import urllib.request
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings
from websockets.exceptions import ConnectionClosed

from dwsps_channels.peering.inbound.worker_credentials import Purpose, sign_worker
from tests.peering.site import id_of
from tests.processes import Redis, Server, ServerFactory, wait_until_async
from tests.wire.client import WireClient, connected
from tests.wire.raw import SlowReader, raw_websocket

# A server that ends has 10 s for its clients; a busy machine takes longer for all else.
DRAIN_TIMEOUT = 30.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_to_end_sends_every_session_away_to_come_back(
    start_server: ServerFactory, server_kind: str, number: signal.Signals
) -> None:
    server = start_server(server_kind)
    async with connected(server.url) as one, connected(server.url) as two:
        await one.subscribe("news")
        await two.subscribe("news")
        server.signal(number)
        ended = asyncio.create_task(asyncio.to_thread(server.wait, DRAIN_TIMEOUT))
        for client in (one, two):
            error = await client.receive()
            assert (error["type"], error["code"], error["retryable"]) == (
                "error",
                "unavailable",
                True,
            )
            with pytest.raises(ConnectionClosed) as closed:
                await client.receive()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4200
        assert await ended == 0
    assert "Traceback" not in server.log


async def test_what_was_acknowledged_before_sigterm_is_delivered(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(server_kind)
    async with connected(server.url) as reader, connected(server.url) as writer:
        await reader.subscribe("news")
        for number in range(500):
            await writer.publish("news", number)
        ended = asyncio.create_task(asyncio.to_thread(server.terminate, DRAIN_TIMEOUT))
        assert [(await reader.receive())["message"] for _ in range(500)] == list(range(500))
        assert (await reader.receive())["code"] == "unavailable"
        with pytest.raises(ConnectionClosed):
            await reader.receive()
        assert (await writer.receive())["code"] == "unavailable"
        assert await ended == 0


async def test_client_that_does_not_read_cannot_hold_up_the_end(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(server_kind)
    with raw_websocket(server.port) as connection:
        SlowReader(connection)
        async with connected(server.url) as writer:
            for _ in range(
                12
            ):  # more than the kernel takes, less than what the server would close it for
                await writer.publish("slow", "x" * 60_000)
        assert await asyncio.to_thread(server.terminate, DRAIN_TIMEOUT) == 0


async def test_sigterm_without_sessions_ends_the_server(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(server_kind)
    async with connected(server.url) as client:
        await client.subscribe("news")
    assert await asyncio.to_thread(server.terminate, DRAIN_TIMEOUT) == 0
    assert "Traceback" not in server.log


async def test_crash_leaves_the_other_end_to_find_out_by_itself(
    start_server: ServerFactory, server_kind: str
) -> None:
    """And the server comes back on its port, empty."""
    server = start_server(server_kind)
    async with connected(server.url) as client:
        await client.subscribe("news")
        server.restart()
        with pytest.raises(ConnectionClosed):
            await client.receive()
    async with connected(server.url) as client:
        await client.publish("news", 1)


async def test_receivers_may_publish_that_clients_of_a_server_that_ends_have_left(
    start_server: ServerFactory, server_kind: str, redis: Redis
) -> None:
    env = {"REDIS_URL": redis.url}
    leaving = start_server(server_kind, env=env, application="tests.wire.presence:application")
    staying = start_server("fastlane", env=env)
    clients = 20
    async with AsyncExitStack() as connections, connected(staying.url) as watcher:
        for _ in range(clients):
            client = await connections.enter_async_context(connected(leaving.url))
            await client.subscribe("news")
        await watcher.subscribe("presence")
        ended = asyncio.create_task(asyncio.to_thread(leaving.terminate, DRAIN_TIMEOUT))
        left = [(await watcher.receive())["message"] for _ in range(clients)]
        assert len(set(left)) == clients
        assert await ended == 0
    assert "Traceback" not in leaving.log


async def test_a_page_that_is_completed_after_its_server_has_left_publishes_through_redis(
    start_server: ServerFactory, redis: Redis, tmp_path: Path
) -> None:
    env = {"REDIS_URL": redis.url, "FOLDER": str(tmp_path)}
    # The page takes as long as this test does.
    leaving = start_server(
        "fastlane",
        *("--timeout-graceful-shutdown", "30"),
        env=env,
        application="tests.wire.late:application",
    )
    staying = start_server("fastlane", env=env)

    def get() -> bytes:
        with urllib.request.urlopen(f"{leaving.http_url}/late", timeout=20) as response:
            body: bytes = response.read()
            return body

    def is_leaving() -> bool:
        """Its sessions and its broker are gone: uvicorn, which ends after them, takes no connection any more."""
        try:
            socket.create_connection(("127.0.0.1", leaving.port), 10).close()
        except ConnectionRefusedError:
            return True
        return False

    async with connected(staying.url) as watcher:
        await watcher.subscribe("news")
        page = asyncio.create_task(asyncio.to_thread(get))
        await wait_until_async((tmp_path / "begun").exists)
        ended = asyncio.create_task(asyncio.to_thread(leaving.terminate, DRAIN_TIMEOUT))
        await wait_until_async(is_leaving)
        (tmp_path / "go").touch()
        assert [(await watcher.receive())["message"] for _ in range(2)] == ["on commit", "at once"]
        assert await page == b"done"
        assert await ended == 0
    assert "Traceback" not in leaving.log
    assert "WARNING" not in leaving.log


async def test_publishes_on_their_way_to_the_broker_are_acknowledged_before_the_end(
    start_server: ServerFactory, server_kind: str, redis: Redis
) -> None:
    server = start_server(server_kind, env={"REDIS_URL": redis.url})
    async with connected(server.url) as writer, connected(server.url) as other:
        await writer.publish("news", 0)
        redis.suspend()
        try:
            for number in range(1, 6):
                await writer.send({"type": "publish", "topic": "news", "message": 1, "id": number})
            # Its reply waits for those before it.
            await writer.send({"type": "publish", "topic": "", "message": 1, "id": 6})
            # The server has them, and each of the other client's requests gives it turns to handle them.
            await (await writer.connection.ping())
            for number in range(10):
                await other.subscribe(f"other.{number}")
            ended = asyncio.create_task(asyncio.to_thread(server.terminate, DRAIN_TIMEOUT))
            await wait_until_async(lambda: "sessions closed, as the server is" in server.log)
        finally:
            redis.signal(signal.SIGCONT)
        answers = [await writer.receive() for _ in range(7)]
        assert [(each["type"], each.get("id")) for each in answers] == [
            *(("ack", number) for number in range(1, 6)),
            ("error", 6),
            ("error", None),
        ]
        assert await ended == 0


async def test_a_broker_that_does_not_answer_cannot_hold_up_the_end(
    start_server: ServerFactory, server_kind: str, redis: Redis
) -> None:
    server = start_server(server_kind, env={"REDIS_URL": redis.url})
    async with connected(server.url) as writer:
        await writer.publish("news", 0)
        redis.suspend()
        await writer.send({"type": "publish", "topic": "news", "message": 1, "id": 1})
        assert await asyncio.to_thread(server.terminate, DRAIN_TIMEOUT) == 0
        # It has no ack, so the client sends it again elsewhere.
        assert (await writer.receive()).get("id") is None
        with pytest.raises(ConnectionClosed):
            await writer.receive()


async def test_the_worker_gets_what_is_published_up_to_the_end(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(server_kind, application="tests.wire.presence:application")
    clients = 20
    async with AsyncExitStack() as connections, as_worker(server) as worker:
        for _ in range(clients):
            client = await connections.enter_async_context(connected(server.url))
            await client.subscribe("news")
        pages = [await next_page(worker)]
        ended = asyncio.create_task(asyncio.to_thread(server.terminate, DRAIN_TIMEOUT))
        while not pages[1:] or pages[-1]["messages"]:
            pages.append(await next_page(worker, pages[-1]["cursor"], pages[-1]["at"]))
        assert sum(page["missed"] for page in pages) == 0
        left = [message for page in pages for message in page["messages"]]
        assert len(set(left)) == len(left) == clients
        assert (await worker.receive())["code"] == "unavailable"
        with pytest.raises(ConnectionClosed) as closed:
            await worker.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4200
        assert await ended == 0


async def test_a_thread_that_publishes_until_the_end_loses_nothing_that_was_acknowledged(
    start_server: ServerFactory, server_kind: str, tmp_path: Path
) -> None:
    file = tmp_path / "acknowledged"
    server = start_server(
        server_kind,
        env={"ACKNOWLEDGED": str(file)},
        dwsps={"PUBLISH_TIMEOUT": 20},
        application="tests.wire.background:application",
    )
    async with as_worker(server) as worker:
        pages = [await next_page(worker, at=0.0)]
        await wait_until_async(lambda: file.exists() and "100\n" in file.read_text())
        ended = asyncio.create_task(asyncio.to_thread(server.terminate, DRAIN_TIMEOUT))
        with suppress(ConnectionClosed):
            while True:
                pages.append(await next_page(worker, pages[-1]["cursor"], pages[-1]["at"]))
        assert await ended == 0
    *acknowledged, refused = file.read_text().split()
    assert refused == "refused"
    got = [message for page in pages for message in page["messages"]]
    assert got == list(range(len(got)))
    assert len(acknowledged) == len(got)


async def test_a_worker_that_does_not_ask_cannot_hold_up_the_end(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(server_kind)
    async with as_worker(server) as worker, connected(server.url) as writer:
        await writer.publish("news", 1)
        assert (await next_page(worker, at=0.0))["messages"] == [1]
        assert await asyncio.to_thread(server.terminate, DRAIN_TIMEOUT) == 0


def as_worker(server: Server) -> Any:
    """Connect to ``server`` with the credential of its worker."""
    with override_settings(SECRET_KEY=server.env["SECRET_KEY"]):
        credential = sign_worker(id_of(server), Purpose.FORWARD)
    return connected(server.url, additional_headers={"Authorization": f"Bearer {credential}"})


async def next_page(worker: WireClient, cursor: str = "", at: float = 2.0**40) -> dict[str, Any]:
    """Request a page, and return its ack with the messages in it."""
    request = {"type": "feed", "cursor": cursor, "at": at, "messages": 100, "size": 2**20}
    await worker.send(request)
    messages = []
    while (answer := await worker.receive())["type"] == "entry":
        messages.append(answer["message"])
    if answer["type"] == "error":
        await worker.connection.wait_closed()
        await worker.receive()  # raises
    assert (answer["type"], answer["action"]) == ("ack", "feed")
    return {**answer, "messages": messages}
