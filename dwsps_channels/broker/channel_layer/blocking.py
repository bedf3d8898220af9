"""Sending to a group of a channel layer from code that has no event loop, and may not have one.

For the layers of channels-redis the blocking Redis client does it: the layer decides what is sent, with its own options, and
its commands go out over a blocking socket. Any other layer gets a thread with an event loop
for each message.
"""

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from dwsps_channels.broker.channel_layer.layers import close_layer

if TYPE_CHECKING:
    from channels.layers import BaseChannelLayer
    from redis import ConnectionPool, Redis

Message = dict[str, Any]

NOBODY: Final = "no process of the server was listening"

# Seconds for a command that comes too late: a socket takes 0 for "do not wait", which is something else.
_SHORTEST_TIMEOUT: Final = 0.001


class BlockingLayer(Protocol):
    """A way to send to a group, for one caller at a time."""

    def group_send(self, group: str, message: Message, deadline: float) -> str:
        """Send; return why a member did not get it, as far as the layer says, or else an empty text.

        Raises:
            TimeoutError: not before the deadline, a time of ``time.monotonic``.
            Exception: whatever the layer raises.
        """
        ...

    def close(self) -> None:
        """End the connections."""
        ...


def blocking_layer(make_layer: "Callable[[], BaseChannelLayer]") -> BlockingLayer:
    """Make a way to the groups of the layer that ``make_layer`` makes. Raises what that raises."""
    layer: Any = make_layer()
    # Not imported for this: a layer of a module that was never imported cannot be there.
    core = sys.modules.get("channels_redis.core")
    pubsub = sys.modules.get("channels_redis.pubsub")
    if core is not None and isinstance(layer, core.RedisChannelLayer):
        # One that makes connections in its own way makes none that block.
        if type(layer).create_pool is core.RedisChannelLayer.create_pool:
            return CoreRedisLayer(layer)
    elif pubsub is not None and isinstance(layer, pubsub.RedisPubSubChannelLayer):
        return PubSubRedisLayer(layer)
    return AnyLayer(make_layer)


class RedisHosts:
    """The blocking clients for the hosts of a layer, each with one connection."""

    def __init__(self) -> None:
        self.deadline = 0.0
        """A time of ``time.monotonic``; for all commands until it is set again."""
        self._clients: dict[int, Redis] = {}

    def client(self, index: int, host: dict[str, Any]) -> "Redis":
        """Return the client for the host of this index, which channels-redis describes by ``host``."""
        if index not in self._clients:
            self._clients[index] = _redis_client(host, self._left)
        return self._clients[index]

    def _left(self) -> float:
        return self.deadline - monotonic()

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
            client.connection_pool.disconnect()
        self._clients.clear()


class CoreRedisLayer:
    """``channels_redis.core.RedisChannelLayer``: a list of messages in Redis for each channel."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._hosts = RedisHosts()
        self._sent: list[_AwaitableRedis] = []
        layer.connection = self._connection

    def group_send(self, group: str, message: Message, deadline: float) -> str:
        """See ``BlockingLayer``."""
        self._hosts.deadline = deadline
        self._sent.clear()
        with _redis_errors():
            _run(self._layer.group_send(group, message))
        # Of each host; the group itself is at one of them.
        over_capacity = sum(connection.over_capacity for connection in self._sent)
        if not any(connection.members for connection in self._sent):
            return NOBODY
        return f"{over_capacity} processes have too much waiting" if over_capacity else ""

    def _connection(self, index: int) -> "_AwaitableRedis":
        connection = _AwaitableRedis(self._hosts.client(index, self._layer.hosts[index]))
        self._sent.append(connection)
        return connection

    def close(self) -> None:
        """See ``BlockingLayer``."""
        self._hosts.close()


class PubSubRedisLayer:
    """``channels_redis.pubsub.RedisPubSubChannelLayer``: a channel of Redis for each group."""

    def __init__(self, layer: Any) -> None:
        from channels_redis.pubsub import RedisPubSubLoopLayer

        self._layer = layer
        # Knows the names and the hosts. What it has for each event loop is made for none here, and never used.
        self._names = RedisPubSubLoopLayer(*layer._args, **layer._kwargs, channel_layer=layer)
        self._hosts = RedisHosts()

    def group_send(self, group: str, message: Message, deadline: float) -> str:
        """See ``BlockingLayer``."""
        self._hosts.deadline = deadline
        channel = self._names._get_group_channel_name(group)
        shard = self._names._get_shard(channel)
        client = self._hosts.client(self._names._shards.index(shard), shard.host)
        with _redis_errors():
            heard = client.publish(channel, self._layer.serialize(message))
        return "" if heard else NOBODY

    def close(self) -> None:
        """See ``BlockingLayer``."""
        self._hosts.close()


class AnyLayer:
    """Another layer. Each message has an event loop of its own, which leaves nothing behind in the caller's thread."""

    def __init__(self, make_layer: "Callable[[], BaseChannelLayer]") -> None:
        self._make_layer = make_layer

    def group_send(self, group: str, message: Message, deadline: float) -> str:
        """See ``BlockingLayer``. What goes wrong after the deadline is not heard of."""
        if patched := patched_threads():
            raise RuntimeError(
                f"this channel layer needs a thread with an event loop, and {patched} has replaced threads: "
                "use a layer of channels_redis"
            )
        outcome: list[Exception | None] = []
        thread = threading.Thread(
            target=self._send, args=(group, message, deadline, outcome), daemon=True
        )
        thread.start()
        thread.join(max(0.0, deadline - monotonic()))
        if not outcome:
            raise TimeoutError
        if outcome[0] is not None:
            raise outcome[0]
        return ""

    def _send(
        self, group: str, message: Message, deadline: float, outcome: list[Exception | None]
    ) -> None:
        async def send() -> None:
            layer = self._make_layer()
            try:
                async with asyncio.timeout(deadline - monotonic()):
                    await layer.group_send(group, message)
            finally:
                await close_layer(layer, None)

        try:
            asyncio.run(send())
        except Exception as error:
            outcome.append(error)
        else:
            outcome.append(None)

    def close(self) -> None:
        """See ``BlockingLayer``."""


def patched_threads() -> str:
    """Name what has made greenlets of this process's threads: ``gevent``, ``eventlet``; empty: nothing has."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return ""


class _Done:
    """An awaitable for channels-redis whose result is there already."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __await__(self) -> Generator[None, None, Any]:
        yield from ()  # what makes it a generator
        return self._value


class _AwaitableRedis:
    """The commands that sending takes, of a client that blocks. A pipeline, too, where only ``execute`` is awaited."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.members = 0
        """Of the group, if it was asked for here."""
        self.over_capacity = 0
        """Members that did not get the message, as too many wait for them."""

    def zremrangebyscore(self, *args: Any, **options: Any) -> _Done:
        return _Done(self._client.zremrangebyscore(*args, **options))

    def zrange(self, *args: Any) -> _Done:
        members = self._client.zrange(*args)
        self.members = len(members)
        return _Done(members)

    def pipeline(self) -> "_AwaitableRedis":
        return _AwaitableRedis(self._client.pipeline())

    def execute(self) -> _Done:
        return _Done(self._client.execute())

    def eval(self, *args: Any) -> _Done:
        self.over_capacity = self._client.eval(*args)
        return _Done(self.over_capacity)


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run what awaits only what is there already."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise RuntimeError("this version of channels_redis waits for more than Redis")


@contextmanager
def _redis_errors() -> Iterator[None]:
    from redis import exceptions

    try:
        yield
    except exceptions.TimeoutError:
        raise TimeoutError from None


def _redis_client(host: dict[str, Any], left: Callable[[], float]) -> "Redis":
    """Make a client for what channels-redis calls a host, whose commands have ``left()`` seconds."""
    from redis import Redis

    pool = _pool(host)
    sentinels = getattr(pool, "sentinel_manager", None)
    asked = [] if sentinels is None else [each.connection_pool for each in sentinels.sentinels]
    for each in (pool, *asked):
        each.connection_class = _with_deadline(each.connection_class, left)
    return Redis(connection_pool=pool)


def _pool(host: dict[str, Any]) -> "ConnectionPool":
    # As channels_redis.utils.create_pool makes one for event loops.
    from redis import ConnectionPool, connection
    from redis.backoff import NoBackoff
    from redis.retry import Retry
    from redis.sentinel import Sentinel, SentinelConnectionPool

    once = {"retry": Retry(NoBackoff(), 0), "retry_on_error": []}
    options = host | once
    connection_class = options.get("connection_class")
    if connection_class is not None and connection_class.__module__.startswith("redis.asyncio"):
        options["connection_class"] = getattr(connection, connection_class.__name__)
    if "address" in options:
        return ConnectionPool.from_url(options.pop("address"), **options)
    master = options.pop("master_name", None)
    if master is None:
        return ConnectionPool(**options)
    sentinel_options = (options.pop("sentinel_kwargs", None) or {}) | once
    make_sentinel: Any = Sentinel
    make_pool: Any = SentinelConnectionPool
    sentinels = make_sentinel(options.pop("sentinels"), sentinel_kwargs=sentinel_options)
    pool: ConnectionPool = make_pool(master, sentinels, **options)
    return pool


def _with_deadline(connection_class: type[Any], left: Callable[[], float]) -> type[Any]:
    """Return a class of redis-py's connections, with ``left()`` seconds for whatever takes time."""

    class Connection(connection_class):  # type: ignore[misc]
        @property
        def socket_timeout(self) -> float:
            return max(left(), _SHORTEST_TIMEOUT)

        @socket_timeout.setter
        def socket_timeout(self, value: float | None) -> None:
            pass

        socket_connect_timeout = socket_timeout

        def send_packed_command(self, *args: Any, **options: Any) -> None:
            if self._sock is not None:
                self._sock.settimeout(self.socket_timeout)
            super().send_packed_command(*args, **options)

    return Connection
