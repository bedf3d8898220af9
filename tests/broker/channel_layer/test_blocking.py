"""Sending without an event loop to a broker on a real Redis, with every option of the layer."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from django.test import override_settings
from redis import Redis as Client
from redis.asyncio import Connection

from dwsps_channels.broker.channel_layer.blocking import NOBODY, AnyLayer, blocking_layer
from dwsps_channels.broker.channel_layer.broker import ChannelLayerBroker
from dwsps_channels.broker.channel_layer.layers import layer_factory
from dwsps_channels.broker.channel_layer.sender import ChannelLayerSender
from dwsps_channels.core.broker import SendResult
from tests.broker.channel_layer.test_redis import LAYERS
from tests.broker.contract import PAYLOADS, Member, publication
from tests.processes import HOST, Child, Redis, free_port, require

Hosts = list[Any]


@pytest.fixture(params=LAYERS)
def backend(request: pytest.FixtureRequest) -> str:
    return LAYERS[request.param]


def soon(seconds: float = 5.0) -> float:
    return monotonic() + seconds


def make_sender() -> ChannelLayerSender:
    return ChannelLayerSender(layer_factory("default"), group="dwsps.broker")


def layer_settings(backend: str, **config: Any) -> dict[str, Any]:
    return {"CHANNEL_LAYERS": {"default": {"BACKEND": backend, "CONFIG": config}}}


async def crosses(backend: str, members_hosts: Hosts | None = None, **config: Any) -> None:
    """Two members get each once and in order, byte for byte."""
    members_config = {**config, "hosts": members_hosts or config["hosts"]}
    with override_settings(**layer_settings(backend, **members_config)):
        brokers = [ChannelLayerBroker(layer_factory("default"), process_id=name) for name in "ab"]
        members = [await Member(broker).start() for broker in brokers]
    with override_settings(**layer_settings(backend, **config)):
        sender = make_sender()

        def publish() -> list[SendResult]:
            return [sender.publish(publication(payload), soon()) for payload in PAYLOADS]

        try:
            assert await asyncio.to_thread(publish) == [SendResult()] * len(PAYLOADS)
            for member in members:
                await member.receives(len(PAYLOADS))
                assert member.messages == PAYLOADS
            assert [broker.stats().missed for broker in brokers] == [0, 0]
        finally:
            sender.close()
            for broker in brokers:
                await broker.stop()


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"prefix": "mine", "symmetric_encryption_keys": ["one", "two"]},
        {"serializer_format": "json"},
    ],
    ids=["plain", "encrypted", "json"],
)
async def test_every_member_gets_it(redis: Redis, backend: str, config: dict[str, Any]) -> None:
    await crosses(backend, hosts=[redis.url], **config)


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


async def test_a_sentinel_says_where_redis_is(backend: str, redis: Redis, sentinel: int) -> None:
    host = {"sentinels": [(HOST, sentinel)], "master_name": "main", "sentinel_kwargs": None}
    # channels-redis leaves its own connections to a sentinel open: not ours to test.
    await crosses(backend, members_hosts=[redis.url], hosts=[host])


@pytest.fixture
def sender(backend: str, redis: Redis) -> Iterator[ChannelLayerSender]:
    with override_settings(**layer_settings(backend, hosts=[redis.url])):
        sender = make_sender()
        yield sender
        sender.close()


def test_it_says_so_where_nobody_is_listening(sender: ChannelLayerSender) -> None:
    assert sender.publish(publication(), soon()).lost == NOBODY


def test_a_redis_that_is_away_is_told_and_found_again(
    redis: Redis, sender: ChannelLayerSender
) -> None:
    sender.publish(publication(), soon())
    redis.kill()
    with pytest.raises(ConnectionError, match=r"the channel layer did not take it: .*refused"):
        sender.publish(publication(), soon())
    redis.start()
    sender.publish(publication(), soon())


def test_one_that_was_restarted_in_between_is_not_noticed(
    redis: Redis, sender: ChannelLayerSender
) -> None:
    sender.publish(publication(), soon())
    redis.restart()
    sender.publish(publication(), soon())


@pytest.mark.parametrize("connected", [False, True], ids=["new", "connected"])
def test_one_that_hangs_is_waited_for_until_the_deadline(
    redis: Redis, sender: ChannelLayerSender, connected: bool
) -> None:
    if connected:
        sender.publish(publication(), soon())
    redis.signal(signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        sender.publish(publication(b'"' + b"x" * 8_000_000 + b'"'), soon(0.2))
    redis.signal(signal.SIGCONT)


def test_what_exceeds_a_members_capacity_is_told(redis: Redis) -> None:
    with override_settings(**layer_settings(LAYERS["core"], hosts=[redis.url])):

        def make() -> Any:
            layer: Any = layer_factory("default")()
            layer.capacity = 1
            return layer

        async def join() -> None:
            layer = make()
            await layer.group_add("dwsps.broker", await layer.new_channel())
            await layer.close_pools()

        asyncio.run(join())
        sender = ChannelLayerSender(make, group="dwsps.broker")
        assert sender.publish(publication(), soon()) == SendResult()
        assert "too much waiting" in sender.publish(publication(), soon()).lost
        sender.close()


def test_a_layer_that_makes_connections_in_its_own_way_gets_an_event_loop(redis: Redis) -> None:
    from channels_redis.core import RedisChannelLayer

    class Own(RedisChannelLayer):  # type: ignore[misc]
        def create_pool(self, index: int) -> Any:
            return super().create_pool(index)

    layer = blocking_layer(lambda: Own(hosts=[redis.url]))
    assert isinstance(layer, AnyLayer)
    assert layer.group_send("group", {"type": "a"}, soon()) == ""
