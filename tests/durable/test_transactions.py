"""Durable messages in transactions of every kind, with a worker that publishes what is left."""

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.durable.killing import (
    DATABASE,
    MEMORY,
    OTHER_DATABASES,
    POSTGRES,
    SQLITE,
    all_rows_go,
    logged,
    start_worker,
)
from tests.processes import Child, Server, manage

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


BY_HAND = """
from django.db import connections, transaction
connections["by_hand"].ensure_connection()
publish("news", "by_hand: committed", using="by_hand", durable=True)
transaction.commit(using="by_hand")
publish("news", "never", using="by_hand", durable=True)
"""


@pytest.mark.processes
@pytest.mark.parametrize(("broker", "database_kind"), [(DATABASE, POSTGRES)])
async def test_transactions_of_every_kind(
    server: Server, tmp_path: Path, children: list[Child]
) -> None:
    start_worker(server, tmp_path, children)
    await asyncio.to_thread(
        manage, "shell", "-c", f"DATABASES = ['default']{IN_TRANSACTIONS}", env=server.env
    )
    await all_rows_go(server)
    assert logged(server) == ["default: committed", "default: committed by hand"]


@pytest.mark.processes
@pytest.mark.parametrize(("broker", "database_kind"), [(MEMORY, SQLITE)])
async def test_several_databases_one_of_which_commits_nothing_by_itself(
    server: Server, tmp_path: Path, children: list[Child], migrated_database: Path
) -> None:
    server.env["DJANGO_SETTINGS_MODULE"] = "tests.durable.site_settings"
    for alias, variable in OTHER_DATABASES.items():
        server.env[variable] = str(shutil.copy(migrated_database, tmp_path / f"{alias}.sqlite3"))
    start_worker(server, tmp_path, children)
    source = f"DATABASES = ['default', 'other']{IN_TRANSACTIONS}{BY_HAND}"
    await asyncio.to_thread(manage, "shell", "-c", source, env=server.env)
    await all_rows_go(server)
    assert sorted(logged(server)) == [
        "by_hand: committed",
        "default: committed",
        "default: committed by hand",
        "other: committed",
        "other: committed by hand",
    ]
