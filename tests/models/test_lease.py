"""Leases by name. tests/peering/test_lease.py has the rest: the clock, and processes that compete."""

import pytest

from dwsps_channels.models import Lease
from tests.processes import wait_until

pytestmark = pytest.mark.django_db

leases = Lease.objects


def test_leases_of_two_names_have_nothing_to_do_with_each_other() -> None:
    assert leases.acquire("log", "one", 60)
    assert leases.acquire("forwarder", "two", 60)
    leases.release("log", "one")
    assert (leases.holder_of("log"), leases.holder_of("forwarder")) == ("", "two")


def test_the_lease_of_a_holder_that_is_gone_can_be_taken() -> None:
    assert leases.acquire("log", "one", 60)
    assert not leases.acquire("log", "two", 60, instead_of="three")
    assert leases.acquire("log", "two", 60, instead_of="one")
    assert leases.holder_of("log") == "two"


def test_only_its_holder_extends_a_lease() -> None:
    assert not leases.renew("log", "one", 60)
    assert leases.acquire("log", "one", 60)
    before = leases.expiry("log")
    assert not leases.renew("log", "two", 600)
    assert leases.expiry("log") == before
    assert leases.renew("log", "one", 600)
    after = leases.expiry("log")
    assert before is not None
    assert after is not None
    assert (after - before).total_seconds() > 500


def test_a_lease_that_has_ended_has_no_holder_and_can_be_extended_until_another_takes_it() -> None:
    assert leases.acquire("log", "one", 0.01)
    wait_until(lambda: leases.holder_of("log") == "")
    assert leases.renew("log", "one", 0.01)
    wait_until(lambda: leases.acquire("log", "two", 60))
    assert not leases.renew("log", "one", 60)
