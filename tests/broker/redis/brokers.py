"""Brokers of one server on a Redis of the test's own."""

from functools import partial
from typing import Any

from dwsps_channels.broker.redis.broker import RedisBroker
from dwsps_channels.broker.redis.hosts import async_pool
from dwsps_channels.broker.redis.layout import Layout
from dwsps_channels.broker.redis.source import RedisSource
from dwsps_channels.core.retention import Retention
from tests.processes import Redis


def layout(**options: Any) -> Layout:
    return Layout(**{"name": "test", "bounds": Retention(), **options})


def broker_at(url: str, **options: Any) -> RedisBroker:
    return RedisBroker(partial(async_pool, {"address": url}), layout(**options))


def broker(redis: Redis, **options: Any) -> RedisBroker:
    return broker_at(redis.url, **options)


def source_at(url: str, **options: Any) -> RedisSource:
    return RedisSource(partial(async_pool, {"address": url}), layout(**options))
