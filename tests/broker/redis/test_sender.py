"""Publishing to a log on a real Redis, and reading it, without an event loop; with every option of a layer."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from django.test import override_settings
from redis import Redis as Client
from redis.asyncio import Connection

from dwsps_channels.broker.backends import BrokerSender, LogReader, RedisBackend
from dwsps_channels.broker.redis import hosts
from dwsps_channels.broker.redis.sender import NOBODY
from dwsps_channels.core.broker import SendResult
from tests.broker.contract import PAYLOADS, Member, publication
from tests.processes import HOST, WAIT_TIMEOUT, Child, Redis, free_port, require, wait_until

LAYERS = {
    "core": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}

Hosts = list[Any]


@pytest.fixture(params=LAYERS)
def backend(request: pytest.FixtureRequest) -> str:
    return LAYERS[request.param]


def soon(seconds: float = WAIT_TIMEOUT) -> float:
    return monotonic() + seconds


def layer_settings(backend: str, **config: Any) -> dict[str, Any]:
    return {"CHANNEL_LAYERS": {"default": {"BACKEND": backend, "CONFIG": config}}}


async def crosses(backend: str, **config: Any) -> None:
    """Two members get each once and in order, byte for byte; and the log is read."""
    with override_settings(**layer_settings(backend, **config)):
        brokers = [RedisBackend({}).make_broker() for _ in range(2)]
        members = [await Member(broker).start() for broker in brokers]
        sender, reader = RedisBackend({}).make_sender(), RedisBackend({}).make_reader()

        def publish() -> list[SendResult]:
            return [sender.publish(publication(payload), soon()) for payload in PAYLOADS]

        offsets = list(range(1, len(PAYLOADS) + 1))
        try:
            assert await asyncio.to_thread(publish) == [SendResult(each) for each in offsets]
            for member in members:
                await member.receives(len(PAYLOADS))
                assert (member.messages, member.offsets) == (PAYLOADS, offsets)
            log = await asyncio.to_thread(reader.load, "news", soon())
            assert [offset for offset, _ in log.publications] == offsets
            assert [bytes(each.message) for _, each in log.publications] == PAYLOADS
            assert await asyncio.to_thread(reader.cursor, soon()) == f"{log.epoch}:{log.offset}"
        finally:
            sender.close()
            reader.close()
            for broker in brokers:
                await broker.stop()


@pytest.mark.parametrize(
    "config",
    [{}, {"prefix": "mine", "symmetric_encryption_keys": ["one", "two"]}],
    ids=["plain", "encrypted"],
)
async def test_every_member_gets_it(redis: Redis, backend: str, config: dict[str, Any]) -> None:
    await crosses(backend, hosts=[redis.url], **config)


async def test_with_a_key_nothing_in_redis_can_be_read(redis: Redis, backend: str) -> None:
    await crosses(backend, hosts=[redis.url], prefix="mine", symmetric_encryption_keys=["one"])
    with Client.from_url(redis.url) as client:
        [log] = client.keys("{mine:*}:log")
        assert client.xlen(log) == len(PAYLOADS)
        assert b"news" not in repr(client.xrange(log)).encode()


async def test_hosts_may_be_given_in_every_way(redis: Redis, backend: str) -> None:
    with Client.from_url(redis.url) as client:
        client.config_set("requirepass", "secret")
    with_password = redis.url.replace("redis://", "redis://:secret@")
    host: Hosts
    for host in (
        [with_password],
        [{"address": with_password, "socket_timeout": 60, "health_check_interval": 30}],
        [{"host": HOST, "port": redis.port, "password": "secret", "connection_class": Connection}],
        [with_password, with_password.replace("/0", "/1")],
    ):
        with Client.from_url(with_password) as client:
            client.flushall()
        await crosses(backend, hosts=host)


@pytest.fixture
def sentinel(redis: Redis, tmp_path: Path) -> Iterator[int]:
    """The port of a sentinel that knows ``redis`` as ``main``."""
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind {HOST}\ndir {tmp_path}\nsentinel monitor main {HOST} {redis.port} 1\n"
    )
    command = [require("redis-server"), str(config), "--sentinel"]
    with Child.all_closed() as children:
        children.append(Child("sentinel", command, port=port, env={}, folder=tmp_path))
        children[0].start()
        yield port


async def test_a_sentinel_says_where_redis_is(
    backend: str, redis: Redis, sentinel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "_SENTINEL_TIMEOUT", WAIT_TIMEOUT)
    nobody = free_port()
    host = {
        "sentinels": [(HOST, nobody), (HOST, sentinel)],
        "master_name": "main",
        "sentinel_kwargs": None,
    }
    await crosses(backend, hosts=[host])


@pytest.fixture
def configured(redis: Redis) -> RedisBackend:
    return RedisBackend({"HOSTS": [redis.url]})


@pytest.fixture
def sender(configured: RedisBackend) -> Iterator[BrokerSender]:
    sender = configured.make_sender()
    yield sender
    sender.close()


@pytest.fixture
def reader(configured: RedisBackend) -> Iterator[LogReader]:
    reader = configured.make_reader()
    yield reader
    reader.close()


def test_the_first_to_publish_begins_a_log(sender: BrokerSender, reader: LogReader) -> None:
    # And as no process of the server has been heard, it says so.
    assert sender.publish(publication(1), soon()) == SendResult(1, NOBODY)
    assert sender.publish(publication(2), soon()) == SendResult(2, NOBODY)
    log = reader.load("news", soon())
    assert [int(bytes(each.message)) for _, each in log.publications] == [1, 2]


def test_the_first_to_read_begins_a_log(sender: BrokerSender, reader: LogReader) -> None:
    epoch, _, offset = reader.cursor(soon()).partition(":")
    assert offset == "0"
    sender.publish(publication(1), soon())
    assert reader.cursor(soon()) == f"{epoch}:1"
    log = reader.load("news", soon())
    assert (log.epoch, log.offset, log.floor) == (epoch, 1, 0)


def test_a_key_that_is_known_publishes_nothing(sender: BrokerSender, reader: LogReader) -> None:
    offsets = [
        sender.publish(publication(number), soon(), key).offset
        for number, key in [(1, "a"), (2, "b"), (3, "a"), (4, "")]
    ]
    assert offsets == [1, 2, 1, 3]
    log = reader.load("news", soon())
    assert [int(bytes(each.message)) for _, each in log.publications] == [1, 2, 4]


def test_a_redis_that_is_away_is_told_and_found_again(redis: Redis, sender: BrokerSender) -> None:
    sender.publish(publication(), soon())
    redis.kill()
    with pytest.raises(ConnectionError, match="refused"):
        sender.publish(publication(), soon())
    redis.start()
    sender.publish(publication(), soon())


def test_one_that_was_restarted_in_between_is_not_noticed(
    redis: Redis, sender: BrokerSender
) -> None:
    sender.publish(publication(), soon())
    redis.restart()
    sender.publish(publication(), soon())


def test_a_connection_that_redis_has_closed_is_not_noticed(
    redis: Redis, sender: BrokerSender, reader: LogReader
) -> None:
    """Redis has a `timeout` for idle ones, and others on the way have theirs."""
    sender.publish(publication(), soon())
    cursor = reader.cursor(soon())
    uses: list[Callable[[], Any]] = [
        lambda: reader.cursor(soon()),
        lambda: reader.load("news", soon()),
        lambda: reader.load("news", soon(), since=cursor),
        lambda: sender.publish(publication(), soon()),
    ]
    with Client.from_url(redis.url) as client:
        for use in uses:
            assert client.client_kill_filter(_type="normal", skipme=True) > 0
            use()


def test_what_redis_does_not_do_is_told(redis: Redis, sender: BrokerSender) -> None:
    sender.publish(publication(), soon())
    with Client.from_url(redis.url) as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(ConnectionError, match="maxmemory"):
            sender.publish(publication(), soon())
        client.config_set("maxmemory", 0)
    assert sender.publish(publication(), soon()).offset == 2


def test_a_master_that_was_made_a_replica_is_left(
    redis: Redis, sender: BrokerSender, reader: LogReader
) -> None:
    sender.publish(publication(), soon())
    reader.load("news", soon())
    with Client.from_url(redis.url) as client:
        assert len(client.client_list()) == 3
        client.replicaof(HOST, free_port())
        with pytest.raises(ConnectionError, match="replica"):
            sender.publish(publication(), soon())
        with pytest.raises(ConnectionError, match="replica"):
            reader.load("news", soon())
        wait_until(lambda: len(client.client_list()) == 1)
        client.replicaof("NO", "ONE")
    assert sender.publish(publication(), soon()).offset == 2


@pytest.mark.parametrize("connected", [False, True], ids=["new", "connected"])
def test_one_that_hangs_is_waited_for_until_the_deadline(
    redis: Redis, sender: BrokerSender, connected: bool
) -> None:
    if connected:
        sender.publish(publication(), soon())
    redis.suspend()
    with pytest.raises(TimeoutError):
        sender.publish(publication(b'"' + b"x" * 8_000_000 + b'"'), soon(0.2))
    redis.signal(signal.SIGCONT)
