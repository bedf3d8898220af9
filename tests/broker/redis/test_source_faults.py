"""A worker that reads the log from a Redis that has a bad day: nothing that the log still has is passed over."""

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dwsps_channels.core.page import Position
from dwsps_channels.core.retention import Retention
from tests.broker.redis.account import Account
from tests.broker.redis.brokers import broker, layout, source_at
from tests.broker.redis.follower import Follower
from tests.broker.redis.proxy import Proxy
from tests.processes import WAIT_TIMEOUT, Redis, wait_until_async


@pytest.fixture
async def follower(redis: Redis) -> AsyncIterator[Follower]:
    follower = Follower(source_at(redis.url))
    yield follower
    await follower.stop()


@pytest.fixture
async def proxied(redis: Redis) -> AsyncIterator[Proxy]:
    proxy = await Proxy(redis.port).start()
    yield proxy
    await proxy.stop()


async def talking(account: Account, redis: Redis, processes: int = 2) -> None:
    for _ in range(processes):
        account.talk(await account.add(broker(redis)))
    await account.goes_on()


def assert_each_once(account: Account, follower: Follower) -> None:
    """In the order of the log, and nothing that was refused."""
    assert len(follower.numbers) == len(set(follower.numbers))
    assert (follower.missed, follower.restarts) == (0, 0)
    offsets = [account.acknowledged[n][1] for n in follower.numbers if n in account.acknowledged]
    assert offsets == sorted(offsets)
    assert not account.refused & set(follower.numbers)


@pytest.mark.usefixtures("patient")
async def test_a_redis_that_keeps_everything_is_killed_again_and_again(
    account: Account, keeping: Redis, follower: Follower
) -> None:
    await talking(account, keeping, processes=3)
    for _ in range(6):
        keeping.restart()
        await account.goes_on()
    await account.hush()
    account.check()
    await follower.has_all_of(account)
    assert_each_once(account, follower)
    assert account.unknown == set()
    assert follower.problems


async def test_a_redis_that_hangs_is_left_and_found_again(
    account: Account, redis: Redis, follower: Follower
) -> None:
    await talking(account, redis)
    redis.signal(signal.SIGSTOP)
    assert await follower.fails() == "Redis cannot be used: it does not answer"
    redis.signal(signal.SIGCONT)
    await account.goes_on()
    await account.hush()
    await follower.has_all_of(account)
    assert_each_once(account, follower)


@pytest.mark.parametrize("how", ["restarted", "emptied"])
async def test_a_redis_that_forgets_everything_is_read_from_its_new_beginning(
    how: str, account: Account, redis: Redis, client: Any, follower: Follower
) -> None:
    await talking(account, redis)
    epoch = account.processes[0].epoch
    if how == "restarted":
        redis.restart()
    else:
        await client.flushall()
    await wait_until_async(lambda: all(each.epoch != epoch for each in account.processes))
    await account.goes_on()
    await account.hush()
    await follower.has_all_of(account)
    assert (follower.missed, follower.restarts) == (0, 1)


async def test_a_redis_that_loses_its_end_is_read_again_from_shortly_before(
    account: Account, redis: Redis, client: Any, follower: Follower
) -> None:
    await talking(account, redis)
    await follower.has_all_of(account)
    await client.save()
    await account.goes_on()  # which is not saved
    epoch = account.processes[0].epoch
    redis.restart()
    await wait_until_async(lambda: all(each.epoch != epoch for each in account.processes))
    await account.goes_on()
    await account.hush()
    await follower.has_all_of(account)
    assert follower.missed == 0
    assert follower.restarts >= 1


async def test_connections_that_break_lose_nothing(
    account: Account, redis: Redis, client: Any, follower: Follower
) -> None:
    await talking(account, redis)
    for _ in range(10):
        await client.client_kill_filter(_type="normal", skipme=True)
        await account.goes_on()
    await account.hush()
    await follower.has_all_of(account)
    assert_each_once(account, follower)


async def test_a_worker_for_which_nothing_comes_any_more_notices(
    account: Account, redis: Redis, proxied: Proxy
) -> None:
    follower = Follower(source_at(proxied.url))
    await talking(account, redis)
    await follower.has_all_of(account)
    proxied.hold()
    assert await follower.fails() == "Redis cannot be used: it does not answer"
    await account.goes_on()
    proxied.restore()
    await account.hush()
    await follower.has_all_of(account)
    assert_each_once(account, follower)
    await follower.stop()


async def test_without_any_process_of_the_server_what_was_acknowledged_is_read(
    account: Account, keeping: Redis, follower: Follower
) -> None:
    """All processes were killed, and then Redis: nobody can vouch for the log, so another epoch begins."""
    await talking(account, keeping)
    await account.hush()
    for process in account.processes:
        await process.vanish()
    keeping.restart()
    await follower.has_all_of(account)
    later = Follower(source_at(keeping.url))
    await later.has_all_of(account)
    assert later.missed == 0
    await later.stop()


async def test_an_entry_in_the_place_of_another_is_not_passed_over(
    account: Account, redis: Redis, client: Any
) -> None:
    """As after a fail-over to a replica that has what the processes have read, and not what the worker has."""
    process = await account.add(broker(redis))
    await account.publish(process)
    source = source_at(redis.url)
    page = await source.read(Position())
    log = layout().log
    [(id, fields)] = await client.xrange(log)
    await client.delete(log)
    another = f"1-{int(id.partition(b'-')[2]) + 1}"
    await client.xadd(log, fields, id=another)
    again = await source.read(page.position)
    assert (len(again.entries), again.restarted) == (1, True)
    await source.close()


async def test_one_who_was_away_for_longer_than_the_log_keeps_has_it_counted(
    account: Account, redis: Redis
) -> None:
    small = Retention(messages=10, bytes=2000)
    process = await account.add(broker(redis, bounds=small))
    await account.publish(process)
    source = source_at(redis.url)
    page = await source.read(Position())
    for _ in range(150):
        await account.publish(process)
    behind = await source.read(page.position)
    assert 0 < behind.missed < 150
    # The rest may be removed as well before it is read.
    rest = behind.missed + len(behind.entries)
    async with asyncio.timeout(WAIT_TIMEOUT):
        while rest < 150:
            behind = await source.read(behind.position)
            rest += behind.missed + len(behind.entries)
    assert rest == 150
    await source.close()
