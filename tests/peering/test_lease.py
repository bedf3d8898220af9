"""The worker's lease: one holder at a time, by the database's clock."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from dwsps_channels.models import Lease
from dwsps_channels.peering import lease
from tests.processes import wait_until

pytestmark = pytest.mark.django_db


def test_one_has_the_lease_and_may_keep_it() -> None:
    assert not lease.worker_is_running()
    assert lease.acquire("one", 60)
    assert lease.acquire("one", 60)
    assert not lease.acquire("two", 60)
    assert lease.worker_is_running()


def test_a_lease_that_ran_out_goes_to_who_comes_first() -> None:
    assert lease.acquire("one", 0.05)
    wait_until(lambda: lease.acquire("two", 60))
    assert not lease.acquire("one", 60)


def test_a_lease_that_ran_out_can_still_be_kept_while_nobody_took_it() -> None:
    assert lease.acquire("one", 0.0)
    wait_until(lambda: not lease.worker_is_running())
    assert lease.acquire("one", 60)
    assert not lease.acquire("two", 60)


def test_a_lease_is_extended_by_keeping_it() -> None:
    assert lease.acquire("one", 0.1)
    first = Lease.objects.get().expires_at
    assert lease.acquire("one", 60)
    assert (Lease.objects.get().expires_at - first).total_seconds() > 50


def test_a_lease_is_given_back_by_its_holder_only() -> None:
    assert lease.acquire("one", 60)
    lease.release("two")
    assert not lease.acquire("two", 60)
    lease.release("one")
    assert not lease.worker_is_running()
    assert lease.acquire("two", 60)


def test_the_clock_of_the_lease_is_the_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lease.acquire("one", 60)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    monkeypatch.setattr("django.utils.timezone.now", lambda: datetime(2096, 1, 1, tzinfo=UTC))
    assert not lease.acquire("two", 60)
    assert lease.worker_is_running()


@pytest.mark.parametrize("seconds", [0.25, 6, 6.0, 3600])
def test_it_lasts_as_long_as_was_asked_for(seconds: float) -> None:
    before = selected("SELECT CURRENT_TIMESTAMP")
    assert lease.acquire("one", seconds)
    after = selected("SELECT CURRENT_TIMESTAMP")
    begun = selected("SELECT expires_at FROM dwsps_channels_lease") - timedelta(seconds=seconds)
    # CURRENT_TIMESTAMP has whole seconds here.
    assert before <= begun < after + timedelta(seconds=1)


def selected(query: str) -> datetime:
    with connection.cursor() as cursor:
        cursor.execute(query)
        [value] = cursor.fetchone()
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)
