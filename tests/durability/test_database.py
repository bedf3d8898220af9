"""The database of a server is locked, or dies."""

import asyncio
import sqlite3
from contextlib import closing

import pytest

from tests.durability.conftest import Deploy
from tests.durability.traffic import brokers, times, traffic
from tests.form import RELEASE

LOCKED = 10.0 if RELEASE else 4.0


@pytest.mark.parametrize("broker", brokers("sqlite", release=("memory", "redis")))
async def test_sqlite_is_locked(deploy: Deploy, broker: str) -> None:
    deployment = await deploy(broker)
    deployment.database_fails = True
    async with traffic(deployment) as flowing:
        for _ in range(times(1, 3)):
            with closing(sqlite3.connect(deployment.north.database, timeout=30)) as connection:
                connection.isolation_level = None
                connection.execute("BEGIN IMMEDIATE")
                await asyncio.sleep(LOCKED)
                connection.execute("ROLLBACK")
            await flowing.flows()


async def test_postgresql_is_killed(deploy: Deploy) -> None:
    deployment = await deploy("postgres")
    assert deployment.keeper is not None
    async with traffic(deployment) as flowing:
        for _ in range(times(2, 10)):
            await flowing.flows()
            await deployment.pause(0.0, 1.0)
            await deployment.kill(deployment.keeper, away=1.0)
        await flowing.flows()
