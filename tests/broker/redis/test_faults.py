"""The log on a Redis that has a bad day: nothing is lost in silence, and the epoch tells the truth."""

import signal
from collections.abc import AsyncIterator
from time import monotonic

import pytest
from redis.asyncio import Redis as Client

from dwsps_channels.broker.redis import broker as broker_module
from dwsps_channels.broker.redis.broker import UNKNOWN
from dwsps_channels.broker.redis.sender import RedisSender
from dwsps_channels.core.retention import Retention
from dwsps_channels.protocol.errors import Unavailable
from tests.broker.contract import answered, publication
from tests.broker.redis.account import Account
from tests.broker.redis.brokers import broker, broker_at, layout
from tests.broker.redis.proxy import Proxy
from tests.processes import Redis, wait_until_async


async def talking(account: Account, redis: Redis) -> None:
    """Have two processes publish, and wait until both are heard."""
    for _ in range(2):
        account.talk(await account.add(broker(redis)))
    await account.goes_on()


def epochs(account: Account) -> list[str]:
    """All epochs that there were, in order."""
    return list(dict.fromkeys(s[0] for p in account.processes for s in p.stretches))


async def begin_another(account: Account, epoch: str) -> None:
    """Wait until all processes are in one epoch, another than ``epoch``."""

    def have_begun() -> bool:
        now = {process.epoch for process in account.processes}
        return len(now) == 1 and epoch not in now

    await wait_until_async(have_begun, what="all processes began another epoch")


async def test_a_redis_that_forgets_everything_begins_another_epoch(
    account: Account, redis: Redis
) -> None:
    await talking(account, redis)
    [epoch] = epochs(account)
    redis.restart()
    await begin_another(account, epoch)
    await account.goes_on()
    await account.hush()
    account.check()
    assert len(epochs(account)) == 2
    assert [process.broker.stats().epochs for process in account.processes] == [1, 1]


@pytest.mark.usefixtures("patient")
async def test_a_redis_that_keeps_everything_stays_in_its_epoch(
    account: Account, keeping: Redis
) -> None:
    await talking(account, keeping)
    for _ in range(3):
        keeping.restart()
        await account.goes_on()
    await account.hush()
    account.check()
    assert [len(process.logs) for process in account.processes] == [1, 1]
    assert account.unknown == set()


async def test_a_redis_that_loses_its_end_begins_another_epoch(
    account: Account, redis: Redis, client: Client
) -> None:
    await talking(account, redis)
    [epoch] = epochs(account)
    await client.save()
    await account.goes_on()  # which is not saved
    redis.restart()
    await begin_another(account, epoch)
    await account.goes_on()
    await account.hush()
    account.check()


@pytest.mark.parametrize("name", ["state", "log"])
async def test_a_key_that_is_evicted_begins_another_epoch(
    name: str, account: Account, redis: Redis, client: Client
) -> None:
    await talking(account, redis)
    [epoch] = epochs(account)
    assert await client.delete(f"{{test}}:{name}") == 1
    await begin_another(account, epoch)
    await account.goes_on()
    await account.hush()
    account.check()


async def test_a_redis_that_is_emptied_begins_another_epoch_though_nobody_publishes(
    account: Account, redis: Redis, client: Client
) -> None:
    await talking(account, redis)
    [epoch] = epochs(account)
    await account.hush()
    await client.flushall()
    await begin_another(account, epoch)
    account.check()


async def test_a_key_of_what_is_lost_is_not_acknowledged(
    account: Account, redis: Redis, client: Client
) -> None:
    process = await account.add(broker(redis))
    offset = await process.publish(publication(0), "another")
    assert offset is not None
    # As if another process had just published with it, and this one had not read that yet.
    await client.hset("{test}:keys", "k", offset + 1)
    answer = process.broker.publish(publication(0), "k")
    await wait_until_async(lambda: process.broker.stats().waiting == 0)
    assert not answer.done()
    epoch = process.epoch
    await client.flushall()
    await begin_another(account, epoch)
    for _ in range(3):
        await account.goes_on()
    with pytest.raises(Unavailable, match=UNKNOWN):
        await answer


@pytest.mark.usefixtures("patient")
async def test_connections_that_break_lose_nothing(
    account: Account, redis: Redis, client: Client
) -> None:
    await talking(account, redis)
    for _ in range(10):
        await client.client_kill_filter(_type="normal", skipme=True)
        await account.goes_on()
    await account.hush()
    account.check()
    assert [len(process.logs) for process in account.processes] == [1, 1]
    assert account.unknown == set()


async def test_a_redis_that_hangs_is_left_and_found_again(
    account: Account, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await talking(account, redis)
    redis.signal(signal.SIGSTOP)
    await wait_until_async(
        lambda: not any(process.broker.connected for process in account.processes)
    )
    with pytest.raises(Unavailable):
        await account.processes[0].publish(publication(0))
    assert "Redis cannot be used: it does not answer; trying on" in caplog.messages
    redis.signal(signal.SIGCONT)
    await account.goes_on()
    await account.hush()
    account.check()
    assert [len(process.logs) for process in account.processes] == [1, 1]


@pytest.fixture
async def proxied(redis: Redis) -> AsyncIterator[Proxy]:
    proxy = await Proxy(redis.port).start()
    yield proxy
    await proxy.stop()


async def test_a_process_that_was_cut_off_reads_what_it_missed(
    account: Account, redis: Redis, proxied: Proxy
) -> None:
    near = await account.add(broker(redis))
    far = await account.add(broker_at(proxied.url))
    account.talk(near)
    account.talk(far)
    await account.goes_on()
    proxied.cut()
    await wait_until_async(lambda: not far.broker.connected)
    await account.goes_on(near)
    proxied.restore()
    await account.goes_on()
    await account.hush()
    account.check()
    assert [len(process.logs) for process in account.processes] == [1, 1]


async def test_a_process_for_which_nothing_comes_any_more_notices(
    account: Account, redis: Redis, proxied: Proxy
) -> None:
    near = await account.add(broker(redis))
    far = await account.add(broker_at(proxied.url))
    await account.goes_on()
    proxied.hold()
    await wait_until_async(lambda: not far.broker.connected)
    await account.goes_on(near)
    proxied.restore()
    await account.goes_on()
    account.check()


async def test_a_process_that_missed_what_redis_has_removed_begins_again_in_the_same_epoch(
    account: Account, redis: Redis, proxied: Proxy
) -> None:
    small = {"bounds": Retention(messages=100, bytes=2000, seconds=300.0)}
    near = await account.add(broker(redis, **small))
    far = await account.add(broker_at(proxied.url, **small))
    await account.goes_on()
    proxied.cut()
    await wait_until_async(lambda: not far.broker.connected)
    for _ in range(150):  # some 11 KB
        await account.publish(near)
    proxied.restore()
    await account.goes_on()
    account.check()
    assert [len(process.logs) for process in account.processes] == [1, 2]
    assert len(epochs(account)) == 1
    stats = far.broker.stats()
    assert (stats.gaps, stats.epochs) == (1, 0)
    assert 150 <= stats.missed <= 153
    log = far.logs[1]
    assert 0 < log.floor < log.offset
    assert [offset for offset, _ in log.publications] == list(range(log.floor + 1, log.offset + 1))


async def test_a_process_that_stood_still_notices_what_redis_has_removed_meanwhile(
    account: Account, redis: Redis
) -> None:
    """No connection breaks: the next entry that it reads does not follow the last one."""
    small = {"bounds": Retention(messages=100, bytes=2000, seconds=300.0)}
    process = await account.add(broker(redis, **small))
    await account.goes_on()
    sender = RedisSender({"address": redis.url}, layout(**small))
    for number in range(1000, 1150):  # some 11 KB, while the event loop stands still
        sender.publish(publication(number), monotonic() + 30.0)
    sender.close()
    await account.goes_on()
    account.check()
    assert len(epochs(account)) == 1
    stats = process.broker.stats()
    assert (stats.gaps, stats.epochs) == (1, 0)
    # Perhaps it was not waiting for the first, and its own have come since.
    assert 148 <= stats.missed <= 153
    assert len(process.logs) == 2
    assert process.logs[1].floor > process.stretches[0][1] + len(process.stretches[0][2])


async def test_a_process_that_missed_the_beginning_begins_again(
    account: Account, redis: Redis, proxied: Proxy
) -> None:
    small = {"bounds": Retention(messages=100, bytes=2000, seconds=300.0)}
    near = await account.add(broker(redis, **small))
    far = await account.add(broker_at(proxied.url, **small))
    proxied.cut()  # it has read nothing yet
    await wait_until_async(lambda: not far.broker.connected)
    for _ in range(150):
        await account.publish(near)
    proxied.restore()
    await account.goes_on()
    account.check()
    assert [len(process.logs) for process in account.processes] == [1, 2]
    assert len(epochs(account)) == 1


async def test_a_log_whose_reader_does_not_come_back_is_not_vouched_for(
    account: Account, redis: Redis, client: Client, proxied: Proxy
) -> None:
    far = await account.add(broker_at(proxied.url))
    near = await account.add(broker(redis))
    await account.goes_on()
    proxied.cut()
    await client.save()
    await account.publish(near)  # only ``near`` has read it
    await near.vanish()
    redis.restart()
    proxied.restore()
    await wait_until_async(lambda: far.epoch != near.epoch, 30, "another epoch has begun")
    await account.goes_on(far)


async def test_a_log_that_was_left_in_order_is_not_vouched_for_by_those_who_come_later(
    account: Account, keeping: Redis
) -> None:
    first = await account.add(broker(keeping))
    await account.goes_on()
    await first.broker.stop()
    second = await account.add(broker(keeping))
    assert second.epoch == first.epoch  # the same Redis
    await second.broker.stop()
    keeping.restart()
    third = await account.add(broker(keeping))
    # A Redis that still loads its data answers that it does.
    await wait_until_async(lambda: third.broker.connected, 30)
    assert third.epoch != first.epoch
    assert [each.offset for each in third.logs] == [1]


async def test_a_process_that_comes_while_others_are_there_joins_their_epoch(
    account: Account, keeping: Redis
) -> None:
    await talking(account, keeping)
    keeping.restart()
    await account.add(broker(keeping))
    await account.goes_on()
    await account.hush()
    account.check()
    assert len(epochs(account)) == 1


async def test_a_redis_that_is_full_refuses_what_nobody_gets_then(
    account: Account, redis: Redis, client: Client
) -> None:
    await talking(account, redis)
    await account.hush()
    await client.config_set("maxmemory", 1)
    number = await account.publish(account.processes[0])
    assert number in account.refused
    await client.config_set("maxmemory", 0)
    await account.goes_on()
    account.check()


@pytest.mark.usefixtures("patient")
async def test_an_error_of_a_proxy_is_no_refusal(account: Account, proxied: Proxy) -> None:
    """Redis has the message nevertheless, which is found out when the batch is sent again."""
    process = await account.add(broker_at(proxied.url))
    await account.goes_on()
    proxied.replace(b"*4\r\n$2\r\nok\r\n", b"-ERR upstream failure\r\n")
    number = await account.publish(process)
    assert number in account.acknowledged
    # The reader may have it, which acknowledges it, before the writer has its reply.
    await wait_until_async(lambda: proxied.has_replaced)
    await account.goes_on()
    account.check()
    assert process.numbers.count(number) == 1


async def test_what_redis_took_and_did_not_bring_back_is_not_known_to_be_published(
    account: Account, proxied: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis goes as soon as it has taken it, and may come back without it."""
    monkeypatch.setattr(broker_module, "OUTCOME_TIMEOUT", 0.3)
    process = await account.add(broker_at(proxied.url))
    await account.goes_on()
    proxied.replace(b"*1\r\n*2\r\n", b"")  # the reply of XREAD
    answer = process.broker.publish(publication(0))
    await wait_until_async(lambda: proxied.has_replaced and process.broker._unanswered is None)
    proxied.cut()
    with pytest.raises(Unavailable, match=UNKNOWN):
        await answered(answer)
