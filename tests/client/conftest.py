"""Servers for clients, and a look at what they leave behind."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from dwsps_channels.client import Client
from tests.client.scripted import ScriptedServer

Connect = Callable[..., Awaitable[Client]]


@pytest.fixture(autouse=True)
async def nothing_left_running() -> AsyncIterator[None]:
    """Every task that a test began, and all that its clients began, has ended with it."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert left == set()


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedServer]:
    server = await ScriptedServer().start()
    yield server
    await server.stop()


@pytest.fixture
async def old_server() -> AsyncIterator[ScriptedServer]:
    """One that answers as dwsps 1.0.1 does."""
    server = await ScriptedServer(old=True).start()
    yield server
    await server.stop()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Call it with a server and options of ``Client`` to get a client that is open."""
    clients = []

    async def connected(server: ScriptedServer, *, wait: bool = True, **options: object) -> Client:
        options = {"min_delay": 0.01, "max_delay": 0.01, "timeout": 30.0} | options
        client = Client(server.url, **options)  # type: ignore[arg-type]
        clients.append(client)
        client.connect()
        if wait:
            async with asyncio.timeout(30):
                await client.wait_open()
        return client

    yield connected
    for client in clients:
        await client.close()
