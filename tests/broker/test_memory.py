import pytest

from dwsps_channels.broker.memory import MemoryBroker
from tests.broker.contract import BrokerContract, MakeBroker, publication


class TestMemoryBroker(BrokerContract):
    @pytest.fixture
    def make_broker(self) -> MakeBroker:
        return MemoryBroker

    def test_has_accepted_at_once(self) -> None:
        assert MemoryBroker().publish(publication()) is None  # type: ignore[func-returns-value]
