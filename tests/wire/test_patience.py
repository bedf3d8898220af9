"""A client may be quiet for as long as it likes."""

import json
import time
from contextlib import ExitStack

from websockets.sync.client import connect

from tests.processes import KINDS, ServerFactory, wait_until

STAY_DURATION = 60.0


def test_clients_that_answer_pings_are_still_there_after_a_minute(
    start_server: ServerFactory,
) -> None:
    """Servers of dwsps 1.0.1 end every connection at its second ping."""
    with ExitStack() as connections:
        # Without pings of their own: only the servers' keep the connections.
        clients = [
            connections.enter_context(connect(start_server(kind).url, ping_interval=None))
            for kind in KINDS
        ]
        began = time.monotonic()
        wait_until(
            lambda: time.monotonic() - began >= STAY_DURATION, STAY_DURATION + 5, "a minute passes"
        )
        for client in clients:
            client.send(json.dumps({"type": "publish", "topic": "news", "message": "still here"}))
            assert json.loads(client.recv(timeout=30))["type"] == "ack"
