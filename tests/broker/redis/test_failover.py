"""The log on a Redis that Sentinel replaces by its replica."""

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import ConnectionPool
from redis.asyncio import Redis as Client
from redis.exceptions import ConnectionError

from dwsps_channels.broker.redis.broker import RedisBroker
from dwsps_channels.broker.redis.hosts import async_pool
from dwsps_channels.broker.redis.source import RedisSource
from tests.broker.redis.account import Account
from tests.broker.redis.brokers import broker, layout, source_at
from tests.broker.redis.follower import Follower
from tests.broker.redis.proxy import Proxy
from tests.processes import HOST, Child, Redis, free_port, redis_server, require, wait_until_async

SENTINEL = """
port {port}
bind {host}
dir {folder}
sentinel monitor main {host} {master} 1
sentinel down-after-milliseconds main {down_after}
sentinel failover-timeout main 2000
"""

# Milliseconds of silence after which the sentinel replaces the master: while it is to, and before. On a busy machine a master
# may be silent for long.
DOWN_AFTER, NEVER = 500, 600_000


class Pair:
    """A master, its replica behind a network of its own, and a sentinel."""

    def __init__(self, master: Redis, replica: Redis, sentinel: Child, proxy: Proxy) -> None:
        self.master = master
        self.replica = replica
        self.proxy = proxy
        """The replica's way to the master."""
        self._sentinel = sentinel

    def _pool(self) -> ConnectionPool:
        host = {"sentinels": [(HOST, self._sentinel.port)], "master_name": "main"}
        return async_pool(host)

    def broker(self) -> RedisBroker:
        return RedisBroker(self._pool, layout())

    def source(self) -> RedisSource:
        return RedisSource(self._pool, layout())

    async def fail_over(self) -> None:
        """Wait until the sentinel has made the replica the master, which does not answer any more."""
        await self._set_down_after(DOWN_AFTER)
        await wait_until_async(self.is_replaced, 40, "the sentinel made the replica the master")
        await self._set_down_after(NEVER)

    async def _set_down_after(self, ms: int) -> None:
        client = Client(host=HOST, port=self._sentinel.port)
        try:
            await client.sentinel_set("main", "down-after-milliseconds", ms)
        finally:
            await client.aclose()

    async def is_replaced(self) -> bool:
        """Tell whether the replica has become the master."""
        with suppress(ConnectionError):  # the sentinel closes all connections then
            return bool((await replication(self.replica))["role"] == "master")
        return False


async def is_followed(master: Redis, replica: Redis) -> bool:
    """Tell whether the replica has all that the master had just before."""
    theirs, own = await replication(master), await replication(replica)
    is_linked = own.get("master_link_status") == "up"
    # It may have more by now: processes publish meanwhile.
    return is_linked and bool(own["master_repl_offset"] >= theirs["master_repl_offset"])


async def configure(redis: Redis, name: str, value: int) -> None:
    client = Client.from_url(redis.url)
    try:
        await client.config_set(name, value)
    finally:
        await client.aclose()


async def replication(redis: Redis) -> dict[str, Any]:
    client = Client.from_url(redis.url)
    try:
        info: dict[str, Any] = await client.info("replication")
        return info
    finally:
        await client.aclose()


@pytest.fixture
def children() -> Iterator[list[Child]]:
    with Child.all_closed() as children:
        yield children


@pytest.fixture
async def pair(redis: Redis, children: list[Child], tmp_path: Path) -> AsyncIterator[Pair]:
    proxy = await Proxy(redis.port).start()
    folder = tmp_path / "replica"
    folder.mkdir()
    replica = redis_server(folder)
    replica.command = [
        *(*replica.command, "--replicaof", HOST, str(proxy.port)),
        *("--replica-announce-ip", HOST),
    ]
    children.append(replica)
    await configure(redis, "repl-diskless-sync-delay", 0)
    replica.start()
    await wait_until_async(partial(is_followed, redis, replica), what="the replica follows")
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        SENTINEL.format(port=port, host=HOST, folder=tmp_path, master=redis.port, down_after=NEVER)
    )
    command = [require("redis-server"), str(config), "--sentinel"]
    sentinel = Child("sentinel", command, port=port, env={}, folder=tmp_path)
    children.append(sentinel)
    sentinel.start()
    pair = Pair(redis, replica, sentinel, proxy)

    async def is_known() -> bool:
        client = Client(host=HOST, port=port)
        try:
            found = await client.sentinel_slaves("main")
            return len(found) == 1
        finally:
            await client.aclose()

    await wait_until_async(is_known, what="the sentinel knows the replica")
    yield pair
    await proxy.stop()


@pytest.fixture
async def follower(pair: Pair) -> AsyncIterator[Follower]:
    """A worker that reads from the beginning."""
    follower = Follower(pair.source())
    yield follower
    await follower.stop()


async def talking(account: Account, pair: Pair) -> str:
    for _ in range(2):
        account.talk(await account.add(pair.broker()))
    await account.goes_on()
    return account.processes[0].epoch


async def test_a_replica_that_has_everything_stays_in_the_epoch(
    account: Account, pair: Pair, follower: Follower
) -> None:
    epoch = await talking(account, pair)
    await account.hush()
    await wait_until_async(partial(is_followed, pair.master, pair.replica))
    pair.master.kill()
    await pair.fail_over()
    await account.goes_on(timeout=40)
    account.check()
    assert {process.epoch for process in account.processes} == {epoch}
    assert [len(process.logs) for process in account.processes] == [1, 1]
    await follower.has_all_of(account)
    assert (follower.missed, follower.restarts) == (0, 0)


async def test_a_replica_that_lagged_begins_another_epoch(
    account: Account, pair: Pair, follower: Follower
) -> None:
    epoch = await talking(account, pair)
    pair.proxy.hold()
    await account.goes_on()
    pair.master.kill()
    pair.proxy.cut()
    await pair.fail_over()
    await account.goes_on(timeout=40)
    await account.hush()
    account.check()
    now = {process.epoch for process in account.processes}
    assert len(now) == 1
    assert epoch not in now
    await follower.has_all_of(account)
    assert (follower.missed, follower.restarts) == (0, 1)


async def test_a_master_that_comes_back_has_its_end_dropped_and_nothing_is_hidden(
    account: Account, pair: Pair, follower: Follower
) -> None:
    """For a moment there are two masters: what the old one has taken meanwhile goes."""
    await talking(account, pair)
    pair.master.signal(signal.SIGSTOP)
    await pair.fail_over()
    pair.master.signal(signal.SIGCONT)
    await account.goes_on(timeout=40)
    await account.hush()
    account.check()
    await follower.has_all_of(account)
    assert follower.missed == 0


async def test_a_redis_that_gets_its_first_replica_is_still_the_same(
    account: Account, redis: Redis, children: list[Child], tmp_path: Path
) -> None:
    """Redis then takes another replication id, and a process that starts is the first to see it."""
    follower = Follower(source_at(redis.url))
    for _ in range(2):
        account.talk(await account.add(broker(redis)))
    await account.goes_on()
    await configure(redis, "repl-diskless-sync-delay", 0)
    replica = redis_server(tmp_path)
    replica.command = [*replica.command, "--replicaof", HOST, str(redis.port)]
    children.append(replica)
    replica.start()
    await wait_until_async(partial(is_followed, redis, replica), what="the replica follows")
    await account.add(broker(redis))
    await account.goes_on()
    await account.hush()
    account.check()
    assert [len(process.logs) for process in account.processes] == [1, 1, 1]
    await follower.has_all_of(account)
    assert (follower.missed, follower.restarts) == (0, 0)
    assert len(follower.numbers) == len(set(follower.numbers))
    await follower.stop()
