"""Fixtures for tests of the log in Redis."""

import pytest

from tests.processes import Redis


@pytest.fixture
def keeping(redis: Redis) -> Redis:
    """The Redis, with an append-only file that has each write before it is acknowledged: it keeps its data when killed."""
    redis.kill()
    at = redis.command.index("no")
    redis.command = [
        *redis.command[:at],
        "yes",
        "--appendfsync",
        "always",
        *redis.command[at + 1 :],
    ]
    redis.start()
    return redis
