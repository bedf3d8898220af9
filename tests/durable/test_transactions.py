"""Durable messages in transactions of every kind, with a worker that publishes what is left."""

import asyncio
from pathlib import Path

import pytest

from tests.durable.killing import (
    DATABASE,
    MEMORY,
    POSTGRES,
    SQLITE,
    logged,
    no_row_is_left,
    start_worker,
)
from tests.processes import Child, Server, manage, wait_until_async

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
