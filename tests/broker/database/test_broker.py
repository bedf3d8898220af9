"""The broker on a real database."""

from functools import partial

import pytest

from tests.broker.contract import LogContract, MakeBroker
from tests.broker.database.databases import broker

pytestmark = pytest.mark.processes


class TestDatabaseBroker(LogContract):
    @pytest.fixture
    def make_broker(self, using: str) -> MakeBroker:
        return partial(broker, using)
