"""Fixtures for tests of durable messages in processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.durable.killing import POSTGRES, REDIS
from tests.processes import Child, Postgres, Redis, Server, ServerFactory, base_environment, manage


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
