"""A client may be quiet for as long as it likes."""

import json
import time

import pytest

from tests.processes import wait_until
from tests.wire.conftest import Patient

STAY_DURATION = 60.0


@pytest.mark.last
def test_client_that_answers_pings_is_still_there_after_a_minute(
    patients: dict[str, Patient], server_kind: str
) -> None:
    """Servers of dwsps 1.0.1 end every connection at its second ping."""
    _, connection, since = patients[server_kind]
    wait_until(
        lambda: time.monotonic() - since >= STAY_DURATION, STAY_DURATION + 5, "a minute has passed"
    )
    connection.send(json.dumps({"type": "publish", "topic": "news", "message": "still here"}))
    assert json.loads(connection.recv(timeout=5))["type"] == "ack"
