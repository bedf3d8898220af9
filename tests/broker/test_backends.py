"""The brokers that the settings can name."""

from typing import Any

import pytest
from channels.layers import BaseChannelLayer
from channels_redis.core import RedisChannelLayer
from django.core.checks import INFO
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from dwsps_channels.broker import backends
from dwsps_channels.broker.backends import (
    ChannelLayerBackend,
    DatabaseBackend,
    MemoryBackend,
    RedisBackend,
    configured_backend,
)
from dwsps_channels.broker.channel_layer.broker import ChannelLayerBroker
from dwsps_channels.broker.database.broker import DatabaseBroker
from dwsps_channels.broker.database.reader import DatabaseReader
from dwsps_channels.broker.database.source import DatabaseSource
from dwsps_channels.broker.memory import MemoryBroker
from dwsps_channels.broker.redis.broker import RedisBroker

SHARED = {"BACKEND": "channels_redis.core.RedisChannelLayer"}
PUBSUB = {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"}
OWN = {"BACKEND": f"{__name__}.OwnLayer"}
OTHER = {"BACKEND": f"{__name__}.OtherLayer"}
IN_MEMORY = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
REDIS = "dwsps_channels.broker.backends.RedisBackend"
DATABASE = "dwsps_channels.broker.backends.DatabaseBackend"
CHANNEL_LAYER = "dwsps_channels.broker.backends.ChannelLayerBackend"
MEMORY = "dwsps_channels.broker.backends.MemoryBackend"


class OwnLayer(RedisChannelLayer):  # type: ignore[misc]
    """A project's own, with the connections of channels-redis."""


class ConnectingLayer(RedisChannelLayer):  # type: ignore[misc]
    """A project's own, with connections of its own."""

    def create_pool(self, index: int) -> Any:
        return super().create_pool(index)


class OtherLayer(BaseChannelLayer):
    """A layer that processes share, not over Redis."""


class TestConfiguredBackend:
    @pytest.mark.parametrize("layers", [{}, {"other": SHARED}, {"default": IN_MEMORY}])
    def test_without_a_shared_layer_the_process_is_alone(self, layers: dict[str, Any]) -> None:
        with override_settings(DWSPS={}, CHANNEL_LAYERS=layers):
            backend = configured_backend()
        assert isinstance(backend, MemoryBackend)
        assert isinstance(backend.make_broker(), MemoryBroker)
        assert backend.make_sender() is None

    @pytest.mark.parametrize("layer", [SHARED, PUBSUB, OWN], ids=["core", "pubsub", "subclass"])
    def test_the_redis_of_the_default_layer_is_taken(self, layer: dict[str, Any]) -> None:
        with override_settings(DWSPS={}, CHANNEL_LAYERS={"default": layer}):
            backend = configured_backend()
            assert isinstance(backend, RedisBackend)
            assert isinstance(backend.make_broker(), RedisBroker)
            assert backend.check() == []

    def test_another_default_layer_is_taken_as_it_is(self) -> None:
        with override_settings(DWSPS={}, CHANNEL_LAYERS={"default": OTHER}):
            backend = configured_backend()
            assert isinstance(backend, ChannelLayerBackend)
            assert isinstance(backend.make_broker(), ChannelLayerBroker)
            [info] = backend.check()
            assert (info.id, info.level) == ("dwsps_channels.I001", INFO)
            assert "channels_redis" in str(info.hint)

    def test_a_layer_that_makes_its_connections_itself_is_taken_as_it_is(self) -> None:
        layer = {"BACKEND": f"{__name__}.ConnectingLayer"}
        with override_settings(DWSPS={}, CHANNEL_LAYERS={"default": layer}):
            assert isinstance(configured_backend(), ChannelLayerBackend)

    @pytest.mark.parametrize("backend", [REDIS, CHANNEL_LAYER])
    def test_a_layer_of_another_name(self, backend: str) -> None:
        named = {"BACKEND": backend, "OPTIONS": {"LAYER": "other"}}
        with override_settings(DWSPS={"BROKER": named}, CHANNEL_LAYERS={"other": SHARED}):
            configured = configured_backend()
            assert f"{type(configured).__module__}.{type(configured).__name__}" == backend
            assert configured.options.LAYER == "other"
            assert [found.id for found in configured.check() if found.level > INFO] == []

    def test_a_channel_layer_on_redis_hints_at_the_log(self) -> None:
        named = {"BACKEND": CHANNEL_LAYER}
        with override_settings(DWSPS={"BROKER": named}, CHANNEL_LAYERS={"default": SHARED}):
            [info] = configured_backend().check()
        assert "RedisBackend" in str(info.hint)

    def test_a_redis_without_a_layer(self) -> None:
        named = {"BACKEND": REDIS, "OPTIONS": {"HOSTS": ["redis://127.0.0.1:1"]}}
        with override_settings(DWSPS={"BROKER": named}, CHANNEL_LAYERS={}):
            backend = configured_backend()
            assert isinstance(backend.make_broker(), RedisBroker)
            assert backend.check() == []

    @pytest.mark.parametrize(
        ("layer", "options", "problem"),
        [
            (OTHER, {}, "is not a layer of channels_redis"),
            (SHARED | {"CONFIG": {"hosts": "redis://127.0.0.1"}}, {}, "must be a list"),
            (SHARED | {"CONFIG": {"hosts": ["http://127.0.0.1"]}}, {}, "redis://"),
            (SHARED, {"HOSTS": [("localhost",)]}, "cannot use the Redis"),
            (SHARED | {"CONFIG": {"symmetric_encryption_keys": "a"}}, {}, "must be a list"),
        ],
        ids=["layer", "hosts", "scheme", "pair", "keys"],
    )
    def test_a_redis_that_cannot_be_used_is_told(
        self, layer: dict[str, Any], options: dict[str, Any], problem: str
    ) -> None:
        named = {"BACKEND": REDIS, "OPTIONS": options}
        with override_settings(DWSPS={"BROKER": named}, CHANNEL_LAYERS={"default": layer}):
            [error] = configured_backend().check()
        assert error.id == "dwsps_channels.E009"
        assert problem in error.msg

    def test_a_redis_of_a_layer_that_is_not_there_is_told(self) -> None:
        with override_settings(DWSPS={"BROKER": {"BACKEND": REDIS}}, CHANNEL_LAYERS={}):
            [error] = configured_backend().check()
        assert error.id == "dwsps_channels.E006"

    def test_memory_although_there_is_a_shared_layer(self) -> None:
        with override_settings(
            DWSPS={"BROKER": {"BACKEND": MEMORY}}, CHANNEL_LAYERS={"default": SHARED}
        ):
            assert isinstance(configured_backend(), MemoryBackend)

    @pytest.mark.parametrize(
        ("named", "problem"),
        [
            ({"BACKEND": "no.such.Backend"}, "can be imported"),
            ({"BACKEND": "dwsps_channels.conf.Settings"}, "is not"),
            ({"BACKEND": "dwsps_channels.broker.backends.BrokerBackend"}, "is not"),
            ({"BACKEND": MEMORY, "OPTIONS": {"LAYER": "default"}}, "unknown field `LAYER`"),
            ({"BACKEND": CHANNEL_LAYER, "OPTIONS": {"LAYER": 1}}, "LAYER"),
        ],
    )
    def test_what_cannot_be_used_is_refused(self, named: dict[str, Any], problem: str) -> None:
        with (
            override_settings(DWSPS={"BROKER": named}),
            pytest.raises(ImproperlyConfigured, match=problem),
        ):
            configured_backend()


class TestDatabaseBackend:
    named = {"BROKER": {"BACKEND": DATABASE}}  # noqa: RUF012

    def test_the_log_is_in_the_database_that_routers_choose(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backends, "is_under_test", lambda: False)
        with override_settings(DWSPS=self.named):
            backend = configured_backend()
            assert isinstance(backend, DatabaseBackend)
            assert backend.using == "default"
            assert isinstance(backend.make_broker(), DatabaseBroker)
            assert isinstance(backend.make_source(), DatabaseSource)
            assert isinstance(backend.make_reader(), DatabaseReader)
            assert backend.make_sender() is None
        with override_settings(DWSPS=self.named, DATABASE_ROUTERS=["tests.routed_settings.Router"]):
            assert DatabaseBackend({}).using == "main"
            assert DatabaseBackend({"USING": "log"}).using == "log"

    def test_under_test_it_is_in_memory(self) -> None:
        with override_settings(DWSPS=self.named):
            assert isinstance(configured_backend().make_broker(), MemoryBroker)


class TestGroup:
    def test_it_is_a_name_that_every_layer_takes(self) -> None:
        with override_settings(DWSPS={"SERVER_NAME": "n" * 64}):
            assert BaseChannelLayer().require_valid_group_name(ChannelLayerBackend({}).group)

    @pytest.mark.parametrize(
        "other",
        [
            {"SECRET_KEY": "another"},
            {"DWSPS": {"SERVER_NAME": "another"}},
            {"CHANNEL_LAYERS": {"default": {"CONFIG": {"hosts": ["redis://localhost/1"]}}}},
        ],
        ids=["key", "name", "database"],
    )
    def test_it_is_another_for_another_server(self, other: dict[str, Any]) -> None:
        group = ChannelLayerBackend({}).group
        with override_settings(**other):
            assert ChannelLayerBackend({}).group != group
        assert ChannelLayerBackend({}).group == group

    def test_it_does_not_tell_the_key(self) -> None:
        with override_settings(SECRET_KEY="example"):
            assert "example" not in ChannelLayerBackend({}).group

    def test_it_stays_when_a_new_key_comes_with_the_old_one_as_a_fallback(self) -> None:
        with override_settings(SECRET_KEY="old"):
            group = ChannelLayerBackend({}).group
        with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["recent", "old"]):
            assert ChannelLayerBackend({}).group == group
