import pytest

from dwsps_channels.broker.memory import LocalBus
from tests.broker.contract import BusContract, MakeBus, publication


class TestLocalBus(BusContract):
    @pytest.fixture
    def make_bus(self) -> MakeBus:
        return LocalBus

    def test_has_accepted_at_once(self) -> None:
        assert LocalBus().publish(publication()) is None  # type: ignore[func-returns-value]
