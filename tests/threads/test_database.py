"""Database connections in threads that live long: a broken one is replaced, and none is left behind."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django import db
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import ConnectionHandler

from dwsps_channels.threads import database
from dwsps_channels.threads.database import Refresher, again_if_broken, leaving_none_open
from tests.clock import Clock

pytestmark = pytest.mark.django_db


@pytest.fixture
def connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BaseDatabaseWrapper]:
    """A connection to a file, since one to a database in memory is never closed."""
    settings = connections["default"].settings_dict | {"NAME": str(tmp_path / "db"), "TEST": {}}
    handler = ConnectionHandler({"default": settings})
    monkeypatch.setattr(database, "connections", handler)
    yield handler["default"]
    handler["default"].close()


def fails(connection: BaseDatabaseWrapper, times: int) -> tuple[Callable[[], str], list[object]]:
    """A query that fails so many times, and the connections that it was made on."""
    used: list[object] = []

    def query() -> str:
        connection.ensure_connection()
        used.append(connection.connection)
        if len(used) <= times:
            connection.errors_occurred = True
            raise db.OperationalError("server closed the connection")
        return "answer"

    return query, used


class TestAgainIfBroken:
    def test_a_query_on_a_connection_that_is_too_old_is_made_again_on_a_new_one(
        self, connection: BaseDatabaseWrapper
    ) -> None:
        connection.ensure_connection()
        connection.close_at = 0
        query, used = fails(connection, 1)
        assert again_if_broken(query) == "answer"
        assert len(used) == 2
        assert used[0] is not used[1]

    def test_it_is_made_again_once(self, connection: BaseDatabaseWrapper) -> None:
        connection.ensure_connection()
        connection.close_at = 0
        query, used = fails(connection, 2)
        with pytest.raises(db.OperationalError):
            again_if_broken(query)
        assert len(used) == 2

    def test_an_error_on_a_good_connection_is_raised(self, connection: BaseDatabaseWrapper) -> None:
        connection.ensure_connection()
        connection.close_at = None
        query, used = fails(connection, 1)
        with pytest.raises(db.OperationalError):
            again_if_broken(query)
        assert used == [connection.connection]

    def test_a_transaction_is_left_alone(self, connection: BaseDatabaseWrapper) -> None:
        connection.ensure_connection()
        connection.set_autocommit(False)
        connection.close_at = 0
        query, used = fails(connection, 1)
        with pytest.raises(db.OperationalError):
            again_if_broken(query)
        assert used == [connection.connection]


class TestLeavingNoneOpen:
    def test_a_connection_that_the_query_opened_is_closed(
        self, connection: BaseDatabaseWrapper
    ) -> None:
        query, used = fails(connection, 0)
        assert leaving_none_open(query) == "answer"
        assert used[0] is not None
        assert connection.connection is None

    def test_also_if_it_fails(self, connection: BaseDatabaseWrapper) -> None:
        query, _ = fails(connection, 1)
        with pytest.raises(db.OperationalError):
            leaving_none_open(query)
        assert connection.connection is None

    def test_one_that_was_open_stays(self, connection: BaseDatabaseWrapper) -> None:
        connection.ensure_connection()
        query, used = fails(connection, 0)
        leaving_none_open(query)
        assert used == [connection.connection]


async def test_async_code_closes_old_connections_once_a_second_and_after_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, closed = Clock(), []
    monkeypatch.setattr(database, "monotonic", clock)
    monkeypatch.setattr(database, "close_old_connections", lambda: closed.append(clock.now))
    refresher = Refresher()
    begin = clock.now
    for _ in range(3):
        await refresher.refresh()
    clock.now += 1.0
    await refresher.refresh()
    await refresher.refresh()
    refresher.suspect()
    await refresher.refresh()
    assert closed == [begin, begin + 1.0, begin + 1.0]
