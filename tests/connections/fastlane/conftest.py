"""The fast lane's servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import server_factory
from tests.processes import Server

APPLICATION = "tests.connections.fastlane.applications:application"


@pytest.fixture(scope="module")
def server(migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The fast lane, with ``applications``; one a module."""
    folder = tmp_path_factory.mktemp("fastlane")
    with Server.all_closed() as servers:
        start = server_factory(servers, folder, migrated_database)
        # The messages of RFC 6455's limits are to be small.
        yield start("fastlane", "--ws-max-size", "1000000", application=APPLICATION)
