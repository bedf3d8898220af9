"""``manage.py check --database``: what the database tells."""

from datetime import timedelta

import pytest
from django.core.checks import CheckMessage, run_checks
from django.db import connection
from django.db.models.functions import Now

from dwsps_channels.peering import lease
from tests.durable.rows import leave


def found() -> list[CheckMessage]:
    return [
        each
        for each in run_checks(tags=["dwsps_channels"], databases=["default"])
        if each.id == "dwsps_channels.W013"
    ]


@pytest.mark.django_db
class TestDurableMessages:
    def test_W013_some_that_no_worker_publishes(self) -> None:
        leave("a")
        leave("b")
        [warning] = found()
        assert warning.msg == ("durable messages wait, and no worker is running to publish them: 2")
        assert "runpubsub" in (warning.hint or "")
        assert [
            each
            for each in run_checks(tags=["dwsps_channels"], databases=[])
            if each.id == "dwsps_channels.W013"
        ] == []

    def test_none_or_fresh_ones_are_none(self) -> None:
        assert found() == []
        leave("a", due_at=Now() + timedelta(seconds=3))
        assert found() == []

    def test_those_of_a_running_worker_are_none(self) -> None:
        leave("a")
        lease.acquire("somebody", 60)
        assert found() == []


@pytest.mark.django_db(transaction=True)
def test_before_the_first_migration_it_says_nothing() -> None:
    table = "dwsps_channels_durablemessage"
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO away")
    try:
        assert found() == []
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE away RENAME TO {table}")
