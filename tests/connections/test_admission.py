"""Admission: the number of clients in all, and from one address."""

import logging

import pytest

from dwsps_channels.connections.admission import Admission, ConnectionLimitReached, Place
from dwsps_channels.logs.throttle import INTERVAL
from tests.clock import Clock


def full(admission: Admission, address: str) -> bool:
    try:
        admission.enter(address)
    except ConnectionLimitReached:
        return True
    return False


def place(admission: Admission, address: str) -> Place:
    found = admission.enter(address)
    assert found is not None
    return found


def test_without_a_limit_there_are_no_places() -> None:
    admission = Admission(None, None)
    assert all(admission.enter("192.0.2.1") is None for _ in range(100))


def test_in_all() -> None:
    admission = Admission(2, None)
    first = place(admission, "192.0.2.1")
    place(admission, "")  # of no known address
    assert full(admission, "192.0.2.3")
    first.leave()
    first.leave()
    assert not full(admission, "192.0.2.3")
    assert full(admission, "192.0.2.4")
    assert admission.refused == 2


def test_from_one_address() -> None:
    admission = Admission(None, 2)
    first, _ = place(admission, "192.0.2.1"), place(admission, "192.0.2.1")
    assert full(admission, "192.0.2.1")
    assert not full(admission, "192.0.2.2")
    first.leave()
    assert not full(admission, "192.0.2.1")
    assert full(admission, "192.0.2.1")


def test_the_64_of_an_ipv6_address_is_one() -> None:
    admission = Admission(None, 1)
    place(admission, "2001:db8::1")
    assert full(admission, "2001:db8::2")
    assert not full(admission, "2001:db8:0:1::1")


def test_ipv4_addresses_in_ipv6_s_form_are_not_one() -> None:
    """As a socket shows them that listens for both protocols."""
    admission = Admission(None, 1)
    place(admission, "::ffff:192.0.2.1")
    assert full(admission, "192.0.2.1")
    assert not full(admission, "::ffff:192.0.2.2")


def test_who_has_no_address_is_not_one_address() -> None:
    admission = Admission(None, 1)
    assert not any(full(admission, "") for _ in range(3))


def test_nothing_is_kept_of_who_has_left() -> None:
    admission = Admission(10, 10)
    for number in range(5):
        place(admission, f"192.0.2.{number}").leave()
    assert not admission._by_network


def test_refusals_are_counted_and_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    admission = Admission(1, None, clock)
    place(admission, "")
    for _ in range(100):
        assert full(admission, "")
    clock.now += INTERVAL
    assert full(admission, "")
    with caplog.at_level(logging.WARNING):
        assert [record.getMessage() for record in caplog.records] == [
            "connection refused: DWSPS['MAX_CONNECTIONS'] is 1; 1 refused since the start",
            "connection refused: DWSPS['MAX_CONNECTIONS'] is 1; 101 refused since the start",
        ]
