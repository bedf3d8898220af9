"""The broker on a real Redis."""

from collections.abc import Callable
from functools import partial

import pytest

from dwsps_channels.broker.redis import broker as broker_module
from tests.broker.contract import MakeBroker, SharedLogContract
from tests.broker.redis.brokers import broker
from tests.processes import Redis


@pytest.fixture
def redis(emptied: Redis) -> Redis:
    return emptied


class TestRedis(SharedLogContract):
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Publishers do not wait long for a Redis that was taken away."""
        monkeypatch.setattr(broker_module, "OUTCOME_TIMEOUT", 0.5)

    @pytest.fixture
    def make_broker(self, redis: Redis) -> MakeBroker:
        return partial(broker, redis)

    @pytest.fixture
    def sever(self, redis: Redis) -> Callable[[], object]:
        return redis.kill
