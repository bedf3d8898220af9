"""The broker on a real Redis, through both of channels-redis's layers."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.test import override_settings
from redis.asyncio import Redis as AsyncRedis

from dwsps_channels.broker.backends import ChannelLayerBackend
from dwsps_channels.broker.channel_layer.broker import ChannelLayerBroker
from dwsps_channels.broker.channel_layer.layers import layer_factory
from dwsps_channels.protocol.errors import Unavailable
from tests.broker.contract import MakeBroker, Member, SharedBrokerContract, publication
from tests.processes import WAIT_TIMEOUT, Redis, wait_until_async

# A connection that does not come about within a heartbeat is left to the garbage collector by redis-py.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

LAYERS = {
    "core": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}


MakeRedisBroker = Callable[..., ChannelLayerBroker]


@pytest.fixture
def redis(emptied: Redis) -> Redis:
    return emptied


@pytest.fixture(params=LAYERS)
def make_redis_broker(request: pytest.FixtureRequest, redis: Redis) -> Iterator[MakeRedisBroker]:
    def make(**options: Any) -> ChannelLayerBroker:
        return ChannelLayerBroker(layer_factory("default"), **{"process_id": "p", **options})

    layer = {"BACKEND": LAYERS[request.param], "CONFIG": {"hosts": [redis.url]}}
    with override_settings(CHANNEL_LAYERS={"default": layer}):
        yield make


class TestRedis(SharedBrokerContract):
    @pytest.fixture(autouse=True)
    def order(self, request: pytest.FixtureRequest) -> None:
        """The core layer sorts by the senders' clocks, and may give out a message before an earlier one has come."""
        if "core" in request.node.callspec.id:
            self.has_one_order = False

    @pytest.fixture
    def make_broker(self, make_redis_broker: MakeRedisBroker) -> MakeBroker:
        return make_redis_broker

    @pytest.fixture
    def sever(self, redis: Redis) -> Callable[[], object]:
        return redis.kill


async def connections(redis: Redis) -> int:
    """Count the other connections to Redis."""
    client = AsyncRedis.from_url(redis.url)
    try:
        return len(await client.client_list()) - 1
    finally:
        await client.aclose()


async def keys(redis: Redis) -> list[str]:
    client = AsyncRedis.from_url(redis.url)
    try:
        found = await client.keys("*")
        return [str(key) for key in found]
    finally:
        await client.aclose()


class Talk:
    """Two processes, each of which publishes numbers all the time, from 1 on."""

    def __init__(self, make: MakeRedisBroker) -> None:
        self.brokers = make(process_id="one"), make(process_id="other")
        self.members = tuple(Member(broker) for broker in self.brokers)
        self.last = [0, 0]  # the last number that each has published
        self.accepted = [0, 0]  # how many of them its broker has accepted
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        for member in self.members:
            await member.start()
        self._tasks = [asyncio.create_task(self._talk(index)) for index in range(2)]
        await self.reaches_beyond(self.last)

    async def _talk(self, index: int) -> None:
        while True:
            self.last[index] += 1
            with suppress(Unavailable):
                await self.members[index].publish(publication(self.last[index], topic=str(index)))
                self.accepted[index] += 1
            await asyncio.sleep(0.02)

    async def reaches_beyond(self, marks: list[int]) -> None:
        """Wait until each has received a number of both beyond their marks."""
        marks = list(marks)
        await wait_until_async(
            lambda: all(
                max(self.numbers(receiver, sender), default=0) > marks[sender]
                for receiver in range(2)
                for sender in range(2)
            ),
            what="both received what both published",
        )

    def numbers(self, receiver: int, sender: int) -> list[int]:
        """Return what one of them received of one of them."""
        received = self.members[receiver].received
        return [int(bytes(each.message)) for each in received if each.topic == str(sender)]

    async def hush(self) -> None:
        """Publish no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def unaccounted(self, receiver: int) -> int:
        """Count the publications of both that were accepted, and neither received nor counted as missed by that member."""
        return (
            sum(self.accepted)
            - len(self.members[receiver].received)
            - self.brokers[receiver].stats().missed
        )


@pytest.fixture
async def talk(make_redis_broker: MakeRedisBroker) -> AsyncIterator[Talk]:
    talk = Talk(make_redis_broker)
    await talk.start()
    yield talk
    await talk.hush()
    for broker in talk.brokers:
        await broker.stop()


async def check_account(talk: Talk) -> None:
    """Nothing came twice or out of order, and nothing was lost in silence."""
    await talk.hush()
    await wait_until_async(
        lambda: talk.unaccounted(0) <= 0 and talk.unaccounted(1) <= 0,
        what="what was lost was counted",
    )
    for receiver in range(2):
        for sender in range(2):
            numbers = talk.numbers(receiver, sender)
            assert numbers == sorted(set(numbers))


async def test_stop_leaves_nothing_behind(make_redis_broker: MakeRedisBroker, redis: Redis) -> None:
    # It leaves within a heartbeat, or not at all.
    one, other = (Member(make_redis_broker(heartbeat=30.0)) for _ in range(2))
    await one.start()
    await other.start()
    await one.publish(publication(1))
    await other.receives(1)
    assert await connections(redis) >= 2
    await one.broker.stop()
    await other.broker.stop()
    await wait_until_async(lambda: nobody(redis), what="all connections were closed")
    assert [key for key in await keys(redis) if "group" in key] == []


async def test_stop_leaves_nothing_behind_after_an_outage_either(
    make_redis_broker: MakeRedisBroker, redis: Redis
) -> None:
    member = Member(broker := make_redis_broker())
    await member.start()
    redis.kill()
    await wait_until_async(lambda: not broker.connected)
    redis.start()
    await wait_until_async(lambda: broker.connected)
    broker._heartbeat = 30.0
    await broker.stop()
    await wait_until_async(lambda: nobody(redis), what="all connections were closed")


async def nobody(redis: Redis) -> bool:
    return await connections(redis) == 0


async def test_after_redis_was_restarted_both_directions_work_again(
    talk: Talk, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis.restart()
    await talk.reaches_beyond(talk.last)
    await check_account(talk)


async def test_after_an_outage_both_directions_work_again(
    talk: Talk, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dwsps_channels.broker")
    redis.kill()
    await wait_until_async(
        lambda: not any(broker.connected for broker in talk.brokers), what="both noticed"
    )
    with pytest.raises(Unavailable):
        await talk.members[0].publish(publication())
    redis.start()
    await talk.reaches_beyond(talk.last)
    await check_account(talk)
    levels = [record.levelname for record in caplog.records if "reached" in record.getMessage()]
    assert levels.count("WARNING") == 2
    assert levels.count("INFO") == 2


async def test_after_redis_hung_both_directions_work_again(talk: Talk, redis: Redis) -> None:
    redis.signal(signal.SIGSTOP)
    await wait_until_async(
        lambda: not any(broker.connected for broker in talk.brokers), what="both noticed"
    )
    redis.signal(signal.SIGCONT)
    await talk.reaches_beyond(talk.last)
    await check_account(talk)


async def test_members_that_were_started_without_redis_find_each_other(
    make_redis_broker: MakeRedisBroker, redis: Redis
) -> None:
    redis.kill()
    talk = Talk(make_redis_broker)
    for member in talk.members:
        async with asyncio.timeout(WAIT_TIMEOUT):
            await member.start()
    assert not any(broker.connected for broker in talk.brokers)
    redis.start()
    await wait_until_async(lambda: all(broker.connected for broker in talk.brokers))
    await talk.members[0].publish(publication(1))
    await talk.members[1].receives(1)
    for broker in talk.brokers:
        await broker.stop()


@pytest.mark.parametrize(
    ("number", "key"), [(1, "production"), (0, "staging")], ids=["another database", "another key"]
)
@pytest.mark.parametrize("layer", LAYERS)
async def test_servers_of_one_name_on_one_redis_do_not_hear_each_other(
    layer: str, number: int, key: str, redis: Redis
) -> None:
    async def member(number: int, key: str) -> Member:
        url = redis.url.removesuffix("/0") + f"/{number}"
        config = {"BACKEND": LAYERS[layer], "CONFIG": {"hosts": [url]}}
        with override_settings(SECRET_KEY=key, CHANNEL_LAYERS={"default": config}):
            made = layer_factory("default")()
            broker = ChannelLayerBroker(
                lambda: made, process_id="p", group=ChannelLayerBackend({}).group
            )
        return await Member(broker).start()

    one, two = await member(0, "production"), await member(0, "production")
    other = await member(number, key)
    await other.publish(publication(1))
    await one.publish(publication(2))
    await two.receives(1)
    # What others have sent has come by now: Redis hands on in order.
    assert (one.numbers, two.numbers, other.numbers) == ([2], [2], [1])
    for each in (one, two, other):
        await each.broker.stop()
