"""The contract of a source on a real Redis, beside a process of the server that publishes and vouches for the log."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis as Client

from dwsps_channels.broker.redis import source as source_module
from dwsps_channels.core.log_source import LogSource
from dwsps_channels.core.publication import Publication
from dwsps_channels.protocol.errors import Unavailable
from tests.broker.contract import Member
from tests.broker.redis.brokers import broker, layout, source_at
from tests.broker.redis.conftest import keep
from tests.processes import WAIT_TIMEOUT, Redis, wait_until_async
from tests.sources.contract import RemoteSourceContract, ServerLog

pytestmark = pytest.mark.processes


class RedisLog(ServerLog):
    def __init__(self, redis: Redis, process: Member) -> None:
        self._redis = redis
        self._process = process

    def make_source(self) -> LogSource:
        return source_at(self._redis.url)

    async def publish(self, publication: Publication) -> int:
        async with asyncio.timeout(WAIT_TIMEOUT):
            while True:
                try:
                    offset = await self._process.publish(publication)
                except Unavailable:  # Redis was away
                    await asyncio.sleep(0.01)
                else:
                    assert offset is not None
                    return offset

    async def forget(self, offset: int) -> None:
        async with Client.from_url(self._redis.url) as client:
            await client.xtrim(layout().log, minid=f"{offset + 1}-0", approximate=False)

    async def begin_again(self) -> None:
        begun = len(self._process.logs)
        async with Client.from_url(self._redis.url) as client:
            await client.flushall()
        await wait_until_async(lambda: len(self._process.logs) > begun)

    async def sever(self) -> None:
        self._redis.kill()

    async def mend(self) -> None:
        self._redis.start()


@pytest.fixture(scope="module")
def kept(redis_of_module: Redis) -> None:
    redis_of_module.kill()
    keep(redis_of_module)
    redis_of_module.start()


class TestRedisSource(RemoteSourceContract):
    @pytest.fixture(autouse=True)
    def short_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Many of these tests read to the end, and wait there."""
        monkeypatch.setattr(source_module, "WAIT", 0.2)

    @pytest.fixture
    def keeping(self, kept: None, emptied: Redis) -> Redis:
        return emptied

    @pytest.fixture
    async def log(self, keeping: Redis) -> AsyncIterator[ServerLog]:
        process = Member(broker(keeping))
        await process.start()
        yield RedisLog(keeping, process)
        await process.broker.stop()
