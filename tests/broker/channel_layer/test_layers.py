from typing import Any

import pytest
from channels.layers import BaseChannelLayer, InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from dwsps_channels.broker.channel_layer.layers import (
    CAPACITY,
    GROUP_EXPIRY,
    database_numbers,
    layer_factory,
)


class PlainLayer(BaseChannelLayer):
    """Of a third party: takes what it takes."""

    def __init__(self, hosts: list[str]) -> None:
        super().__init__()
        self.hosts = hosts


def make(backend: str, **config: Any) -> Any:
    with override_settings(CHANNEL_LAYERS={"broker": {"BACKEND": backend, "CONFIG": config}}):
        return layer_factory("broker")()


def test_settings_are_read_when_a_layer_is_made() -> None:
    make_layer = layer_factory("later")
    in_memory = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    with override_settings(CHANNEL_LAYERS={"later": in_memory}):
        layers = make_layer(), make_layer()
    assert all(isinstance(layer, InMemoryChannelLayer) for layer in layers)
    assert layers[0] is not layers[1]


@pytest.mark.parametrize(
    ("config", "capacity", "group_expiry"),
    [
        ({}, CAPACITY, GROUP_EXPIRY),
        ({"capacity": 100, "group_expiry": 86400}, CAPACITY, GROUP_EXPIRY),
        ({"capacity": 50_000, "group_expiry": 60}, 50_000, 60),
    ],
)
def test_the_core_layer_gets_room_and_forgets_the_dead_soon(
    config: dict[str, int], capacity: int, group_expiry: int
) -> None:
    layer = make(
        "channels_redis.core.RedisChannelLayer",
        hosts=["redis://127.0.0.1:1"],
        prefix="mine",
        **config,
    )
    assert isinstance(layer, RedisChannelLayer)
    assert (layer.capacity, layer.group_expiry) == (capacity, group_expiry)
    assert layer.prefix == "mine"


def test_a_layer_that_takes_no_capacity_is_left_alone() -> None:
    assert make(f"{__name__}.PlainLayer", hosts=["x"]).hosts == ["x"]
    pubsub = make("channels_redis.pubsub.RedisPubSubChannelLayer", hosts=["redis://x"])
    assert isinstance(pubsub, RedisPubSubChannelLayer)


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ({}, "broker"),
        ({"broker": {}}, "BACKEND"),
        ({"broker": {"BACKEND": "no.such.Layer"}}, "no"),
        ({"broker": {"BACKEND": "channels.layers.NoSuchLayer"}}, "NoSuchLayer"),
    ],
)
def test_a_mistake_in_the_settings_is_named(layers: dict[str, Any], named: str) -> None:
    with (
        override_settings(CHANNEL_LAYERS=layers),
        pytest.raises(ImproperlyConfigured, match=named),
    ):
        layer_factory("broker")()


@pytest.mark.parametrize(
    ("hosts", "numbers"),
    [
        (["redis://one:6379/3"], [3]),
        ([b"rediss://user:password@one/3"], [3]),
        (["redis://one/?db=3"], [3]),
        (["unix:///run/redis.sock?db=3"], [3]),
        ([{"address": "redis://one/3"}], [3]),
        ([{"host": "one", "port": 6379, "db": 3}], [3]),
        ([{"sentinels": [("one", 26379)], "master_name": "main", "db": 3}], [3]),
        (["redis://one/2", "redis://two/1", "redis://three/2"], [1, 2]),
        # As if there were none: the first database, and what is no host of Redis.
        (["redis://one"], []),
        (["redis://one/0"], []),
        ([("one", 6379)], []),
        (["amqp://one/3"], []),
        ([{"db": "three"}], []),
        ("redis://one/3", []),
        (None, []),
    ],
)
def test_the_number_of_a_redis_database_is_found(hosts: Any, numbers: list[int]) -> None:
    layer = {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": hosts}}
    with override_settings(CHANNEL_LAYERS={"broker": layer, "empty": {}}):
        assert database_numbers("broker") == numbers
        assert (
            database_numbers("empty") == database_numbers("other") == database_numbers(None) == []
        )
