"""Clients that stay for a minute while the other tests of this folder run."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.conftest import server_factory
from tests.processes import KINDS, Server


class Patient(NamedTuple):
    """A client that has done nothing but answer pings since it connected."""

    server: Server
    connection: ClientConnection
    since: float


@pytest.fixture(scope="session", autouse=True)
def patients(
    migrated_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Patient]]:
    """One client for each kind of server, connected before the first test of this folder."""
    folder = tmp_path_factory.mktemp("patients")
    with Server.all_closed() as servers, ExitStack() as connections:
        start = server_factory(servers, folder, migrated_database)
        found = {}
        for kind in KINDS:
            server = start(kind)
            # Without pings of its own: only the server's keep the connection.
            connection = connections.enter_context(connect(server.url, ping_interval=None))
            found[kind] = Patient(server, connection, time.monotonic())
        yield found
