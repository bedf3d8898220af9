"""The database that has the log."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dwsps_channels.broker.database import broker as broker_module
from tests.broker.database.databases import database_at, sqlite
from tests.processes import Postgres


@pytest.fixture(autouse=True)
def patient_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that stops waits until its lease is given back: the next one is to find it free."""
    monkeypatch.setattr(broker_module, "STOP_TIMEOUT", 30.0)
    monkeypatch.setattr(broker_module, "LEAVE_TIMEOUT", 30.0)


@pytest.fixture(params=["sqlite", "postgres"])
def using(request: pytest.FixtureRequest, tmp_path: Path, django_db_blocker: Any) -> Iterator[str]:
    """The alias of a database with every table: SQLite, then PostgreSQL."""
    with django_db_blocker.unblock():
        if request.param == "postgres":
            server: Postgres = request.getfixturevalue("postgres")
            with database_at(server.url) as alias:
                yield alias
        else:
            with sqlite(request.getfixturevalue("migrated_database"), tmp_path) as alias:
                yield alias


@pytest.fixture
def sqlite_using(migrated_database: Path, tmp_path: Path, django_db_blocker: Any) -> Iterator[str]:
    """The alias of an SQLite database."""
    with django_db_blocker.unblock(), sqlite(migrated_database, tmp_path) as alias:
        yield alias
