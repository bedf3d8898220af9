"""The broker on a real Redis."""

from collections.abc import Callable
from functools import partial

import pytest

from tests.broker.contract import MakeBroker, SharedLogContract
from tests.broker.redis.brokers import broker
from tests.processes import Redis


class TestRedis(SharedLogContract):
    @pytest.fixture
    def make_broker(self, redis: Redis) -> MakeBroker:
        return partial(broker, redis)

    @pytest.fixture
    def sever(self, redis: Redis) -> Callable[[], object]:
        return redis.kill
