"""A process that is the whole server ends under load: its log ends with it, or is in the database."""

import asyncio
import random

import pytest

from tests.chaos.traffic import traffic
from tests.form import RELEASE
from tests.processes import KINDS, ServerFactory

DATABASE = {"BROKER": {"BACKEND": "dwsps_channels.broker.backends.DatabaseBackend"}}


@pytest.mark.parametrize("kind", KINDS if RELEASE else ["fastlane"])
async def test_the_log_ends_with_the_process(kind: str, start_server: ServerFactory) -> None:
    server = start_server(kind)
    async with traffic([server]) as flowing:
        for end in (server.kill, server.terminate):
            resets = len(flowing.resets)
            await asyncio.to_thread(end)
            await asyncio.to_thread(server.start)
            await flowing.flows()
            assert len(flowing.resets) > resets, "its log ends with it, and that is told"


@pytest.mark.parametrize("kind", ["fastlane", "daphne"] if RELEASE else ["fastlane"])
async def test_the_log_in_the_database_outlives_the_process(
    kind: str, start_server: ServerFactory, database_environment: dict[str, str]
) -> None:
    database = {"DATABASE_URL": database_environment["DATABASE_URL"]}
    server = start_server(kind, dwsps=DATABASE, env=database)
    moments = random.Random(kind)
    async with traffic([server]) as flowing:
        for end in [server.kill, server.kill, server.terminate] * (10 if RELEASE else 1):
            await asyncio.sleep(moments.uniform(0.0, 0.5))
            await asyncio.to_thread(end)
            await asyncio.to_thread(server.start)
            await flowing.flows()
        assert flowing.resets == []
