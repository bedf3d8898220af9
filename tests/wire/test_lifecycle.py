"""The end of sessions and servers, and that they do not end before."""

import asyncio
import signal
from contextlib import AsyncExitStack

import pytest
from websockets.exceptions import ConnectionClosed

from tests.processes import Redis, ServerFactory
from tests.wire.client import connected
from tests.wire.raw import SlowReader, raw_websocket

DRAIN_TIMEOUT = 10.0


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
