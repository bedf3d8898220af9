"""The brokers that the settings can name."""

from typing import Any

import pytest
from channels.layers import BaseChannelLayer
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from dwsps_channels.broker.backends import (
    ChannelLayerBackend,
    MemoryBackend,
    configured_backend,
)
from dwsps_channels.broker.channel_layer.broker import ChannelLayerBroker
from dwsps_channels.broker.memory import MemoryBroker

SHARED = {"BACKEND": "channels_redis.core.RedisChannelLayer"}
IN_MEMORY = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
CHANNEL_LAYER = "dwsps_channels.broker.backends.ChannelLayerBackend"
MEMORY = "dwsps_channels.broker.backends.MemoryBackend"


class TestConfiguredBackend:
    @pytest.mark.parametrize("layers", [{}, {"other": SHARED}, {"default": IN_MEMORY}])
    def test_without_a_shared_layer_the_process_is_alone(self, layers: dict[str, Any]) -> None:
        with override_settings(DWSPS={}, CHANNEL_LAYERS=layers):
            backend = configured_backend()
        assert isinstance(backend, MemoryBackend)
        assert isinstance(backend.make_broker(), MemoryBroker)
        assert backend.make_sender() is None

    def test_the_shared_default_layer_is_taken(self) -> None:
        with override_settings(DWSPS={}, CHANNEL_LAYERS={"default": SHARED}):
            backend = configured_backend()
            assert isinstance(backend, ChannelLayerBackend)
            assert isinstance(backend.make_broker(), ChannelLayerBroker)

    def test_a_layer_of_another_name(self) -> None:
        named = {"BACKEND": CHANNEL_LAYER, "OPTIONS": {"LAYER": "other"}}
        with override_settings(DWSPS={"BROKER": named}, CHANNEL_LAYERS={"other": SHARED}):
            backend = configured_backend()
            assert isinstance(backend, ChannelLayerBackend)
            assert backend.options.LAYER == "other"
            assert backend.check() == []

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
