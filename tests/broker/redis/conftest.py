"""Fixtures for tests of the log in Redis."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis as Client

from dwsps_channels.broker.redis import broker as broker_module
from tests.broker.redis.account import Account
from tests.processes import Redis


@pytest.fixture
async def account() -> AsyncIterator[Account]:
    account = Account()
    yield account
    await account.stop()


@pytest.fixture
async def client(redis: Redis) -> AsyncIterator[Any]:
    client = Client.from_url(redis.url)
    yield client
    await client.aclose()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishers wait for a Redis that is away as long as that may take on a busy machine."""
    monkeypatch.setattr(broker_module, "OUTCOME_TIMEOUT", 60.0)


@pytest.fixture
def keeping(redis: Redis) -> Redis:
    """The Redis, with an append-only file that has each write before it is acknowledged: it keeps its data when killed."""
    redis.kill()
    keep(redis)
    redis.start()
    return redis


def keep(redis: Redis) -> None:
    """Have a Redis that is started later keep its data."""
    at = redis.command.index("no")
    redis.command = [
        *redis.command[:at],
        "yes",
        "--appendfsync",
        "always",
        *redis.command[at + 1 :],
    ]
