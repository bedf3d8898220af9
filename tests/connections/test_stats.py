"""The counters of the client connections."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import DatabaseError

from dwsps_channels.connections.admission import Admission, ConnectionLimitReached
from dwsps_channels.connections.handshakes import unanswered
from dwsps_channels.connections.stats import connection_stats
from tests.connections.fastlane.raw import PING, TEXT, frame
from tests.connections.fastlane.test_send_buffer import TakenLine
from tests.connections.transports.contract import frame as text_frame
from tests.connections.transports.contract import turns

Grown = Callable[[], dict[str, int]]


@pytest.fixture
def admission() -> Admission:
    return Admission(1, None)


@pytest.fixture
def grown(admission: Admission) -> Grown:
    """The counters that have grown since the test began, and by how much."""
    before = connection_stats(admission)

    def grown() -> dict[str, int]:
        now = connection_stats(admission)
        growth = {
            name: getattr(now, name) - getattr(before, name) for name in now.__struct_fields__
        }
        return {name: count for name, count in growth.items() if count}

    return grown


async def test_a_client_beyond_the_limit_is_refused(admission: Admission, grown: Grown) -> None:
    admission.enter("192.0.2.1")
    with pytest.raises(ConnectionLimitReached):
        admission.enter("192.0.2.2")
    assert grown() == {"refused": 1}


async def test_a_handshake_is_unanswered(grown: Grown) -> None:
    async def send(event: Any) -> None:
        pass

    await unanswered.reject({}, send, DatabaseError("away"))
    assert grown() == {"unanswered": 1}


async def test_a_client_that_does_not_read_is_slow_once(grown: Grown) -> None:
    line = TakenLine(limit=1000)
    await line.connection.open()
    await line.is_stuck()
    for number in range(1000):
        line.transport.send(text_frame(number))
        await turns()
    assert grown() == {"slow_consumers": 1}
    line.pipe.lose()


async def test_a_client_does_not_answer_pings(grown: Grown) -> None:
    line = TakenLine(limit=1000)
    await line.connection.open()
    line.connection.protocol.on_ping_due()
    line.connection.protocol.on_ping_due()
    assert grown() == {"ping_timeouts": 1}
    line.pipe.lose()


async def test_a_client_breaks_the_protocol(grown: Grown) -> None:
    line = TakenLine(limit=1000)
    await line.connection.open()
    line.connection.protocol.data_received(frame(TEXT, b"fine"))
    assert grown() == {}
    line.connection.protocol.data_received(frame(PING, b"", fin=False))
    assert grown() == {"protocol_errors": 1}
    line.pipe.lose()
