"""The fast lane's servers."""

import pytest

from tests.processes import Server, ServerFactory

APPLICATION = "tests.connections.fastlane.applications:application"


@pytest.fixture(scope="module")
def server(start_shared_server: ServerFactory) -> Server:
    """The fast lane, with ``applications``; one a module."""
    # The messages of RFC 6455's limits are to be small.
    return start_shared_server("fastlane", "--ws-max-size", "1000000", application=APPLICATION)
