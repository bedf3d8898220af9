"""Admission on every server."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.processes import Server, ServerFactory, wait_until


class Clients:
    """Connects from whatever address, as a proxy says it."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self._server = server
        self._stack = stack

    def connect(self, address: str) -> int:
        """The status of the handshake: 101 stays connected until ``leave``."""
        try:
            self._stack.enter_context(
                connect(
                    self._server.url,
                    additional_headers={"X-Forwarded-For": address},
                    proxy=None,
                )
            )
        except InvalidStatus as refused:
            return refused.response.status_code
        return 101

    def leave(self) -> None:
        self._stack.close()


@pytest.fixture
def clients(start_server: ServerFactory, server_kind: str) -> Iterator[Clients]:
    options = ["--proxy-headers"] if server_kind == "daphne" else []
    limits = {"MAX_CONNECTIONS": 3, "MAX_CONNECTIONS_PER_ADDRESS": 2}
    server = start_server(server_kind, *options, dwsps=limits)
    with ExitStack() as stack:
        yield Clients(server, stack)
    # However many were refused.
    assert server.log.count("connection refused: ") == 1
    assert "Traceback" not in server.log


def test_clients_beyond_the_limits_are_refused_until_others_leave(clients: Clients) -> None:
    assert [clients.connect("192.0.2.1") for _ in range(3)] == [101, 101, 503]
    assert [clients.connect("192.0.2.2") for _ in range(2)] == [101, 503]
    clients.leave()
    wait_until(lambda: clients.connect("192.0.2.1") == 101, what="there is a place again")
    clients.leave()
