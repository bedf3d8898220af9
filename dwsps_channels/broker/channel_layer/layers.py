"""The differences between the channel layers that a broker may run over."""

import asyncio
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from dwsps_channels.broker.sending.tasks import end

if TYPE_CHECKING:
    from channels.layers import BaseChannelLayer

# How many messages a channel may hold before a layer drops: the usual 100 are gone in a moment where one channel
# carries all that a process gets. One message is a whole batch.
CAPACITY: Final = 10_000

# Seconds without a heartbeat after which a process is out of the group. The usual day is for members that say nothing:
# until then, each message is also stored for every process that was killed.
GROUP_EXPIRY: Final = 300


def layer_factory(alias: str) -> Callable[[], "BaseChannelLayer"]:
    """Return a factory of layers as ``CHANNEL_LAYERS[alias]`` says, but fit for a broker.

    Settings are read when a layer is made.

    Raises (when a layer is made):
        ImproperlyConfigured: there is no such alias, or its BACKEND cannot be imported.
        Exception: whatever its BACKEND raises for its CONFIG.
    """

    def make_layer() -> "BaseChannelLayer":
        from django.conf import settings
        from django.core.exceptions import ImproperlyConfigured
        from django.utils.module_loading import import_string

        described: dict[str, Any] = getattr(settings, "CHANNEL_LAYERS", {}).get(alias, {})
        if "BACKEND" not in described:
            raise ImproperlyConfigured(f"CHANNEL_LAYERS[{alias!r}] has no BACKEND")
        try:
            make = import_string(described["BACKEND"])
        except ImportError as error:
            raise ImproperlyConfigured(f"CHANNEL_LAYERS[{alias!r}]: {error}") from error
        layer: BaseChannelLayer = make(**_fit(make, described.get("CONFIG", {})))
        return layer

    return make_layer


def _fit(make: Callable[..., Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return ``config`` with the bounds changed that the layer is known to have."""
    parameters = inspect.signature(make).parameters
    fit = dict(config)
    if "capacity" in parameters:
        fit["capacity"] = max(CAPACITY, config.get("capacity", 0))
    if "group_expiry" in parameters:
        fit["group_expiry"] = min(GROUP_EXPIRY, config.get("group_expiry", GROUP_EXPIRY))
    return fit


def database_numbers(alias: str | None) -> list[int]:
    """Return the numbers of the Redis databases that ``CHANNEL_LAYERS[alias]`` names, as far as it names any but 0.

    Redis publishes across its databases: under the pub/sub layer the number separates nobody by itself.
    """
    from django.conf import settings

    described: dict[str, Any] = getattr(settings, "CHANNEL_LAYERS", {}).get(alias, {})
    hosts = described.get("CONFIG", {}).get("hosts")
    if not isinstance(hosts, (list, tuple)):
        return []
    return sorted({_database_number(host) for host in hosts} - {0})


def _database_number(host: object) -> int:
    """Return the number in one of the forms in which channels-redis takes a host."""
    number: object = 0
    if isinstance(host, dict):
        number = host.get("db") or _database_number(host.get("address"))
    elif isinstance(host, (str, bytes)):
        with suppress(ImportError, ValueError):  # another layer may have hosts of another kind
            from redis import connection

            url = host if isinstance(host, str) else host.decode()
            parse: Callable[[str], dict[str, object]] = connection.parse_url
            number = parse(url).get("db")
    try:
        return int(str(number or 0))
    except ValueError:
        return 0


async def close_layer(layer: "BaseChannelLayer", receiver: asyncio.Task[None] | None) -> bool:
    """End ``receiver``, which receives from ``layer``, and close the layer's connections.

    Return whether the layer is then like new. Prefer such a layer to another one: each that channels-redis makes stays
    referenced by the event loop, and a loop with a thousand of them cannot be closed.
    """
    any_layer: Any = layer
    if _is_redis_pubsub(layer):
        # Its flush only closes. Before the receiver is ended, which would else unsubscribe, and so try to reach a
        # Redis that may be away.
        try:
            await any_layer.flush()
        finally:
            await end(receiver)
        return True
    await end(receiver)
    # Never flush another layer: the core Redis layer's flush deletes what every process keeps in Redis.
    if hasattr(any_layer, "close_pools"):
        await any_layer.close_pools()
        return True
    if hasattr(any_layer, "close"):
        await any_layer.close()
    return False


def _is_redis_pubsub(layer: object) -> bool:
    # Not imported for this: a layer of a module that was never imported cannot be there.
    module = sys.modules.get("channels_redis.pubsub")
    return module is not None and isinstance(layer, module.RedisPubSubChannelLayer)
