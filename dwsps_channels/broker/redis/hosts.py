"""The Redis that a project has configured: where it is, and how to connect to it."""

from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from cryptography.fernet import Fernet, MultiFernet

from dwsps_channels.broker.redis.layout import Crypter

if TYPE_CHECKING:
    from redis import ConnectionPool
    from redis.asyncio import ConnectionPool as AsyncConnectionPool

Host = dict[str, Any]
"""The arguments of a connection pool of redis-py; or an ``address``; or ``sentinels`` and a ``master_name``."""

DEFAULT: Final[Host] = {"address": "redis://localhost:6379"}

# Seconds for one of several sentinels, so that one that is down leaves time for the next.
_SENTINEL_TIMEOUT: Final = 0.5


def decode_hosts(hosts: object) -> list[Host]:
    """Read the ``hosts`` of a channel layer of channels-redis, in each form that it takes.

    Raises:
        ValueError: it is no list of hosts.
    """
    if not hosts:
        return [DEFAULT]
    if not isinstance(hosts, Sequence) or isinstance(hosts, (str, bytes)):
        raise ValueError("hosts must be a list, even if there is only one")
    return [_decode_host(host) for host in hosts]


def _decode_host(host: object) -> Host:
    if isinstance(host, Mapping):
        return dict(host)
    if isinstance(host, Sequence) and not isinstance(host, (str, bytes)):
        address, port = host
        return {"host": address, "port": port}
    return {"address": host.decode() if isinstance(host, bytes) else host}


def choose_host(hosts: Sequence[Host], name: str) -> Host:
    """Return the host that has the log called ``name``: the same in each process."""
    return hosts[crc32(name.encode()) % len(hosts)]


def make_crypter(keys: object) -> Crypter | None:
    """Make what encrypts with the first of ``symmetric_encryption_keys``, and decrypts with each.

    Raises:
        ValueError: they are no list of keys.
    """
    if not keys:
        return None
    if not isinstance(keys, Sequence) or isinstance(keys, (str, bytes)):
        raise ValueError("symmetric_encryption_keys must be a list, even if there is only one")
    return MultiFernet([Fernet(_fernet_key(key)) for key in keys])


def _fernet_key(key: str | bytes) -> bytes:
    data = key.encode() if isinstance(key, str) else key
    return urlsafe_b64encode(sha256(data).digest())


def async_pool(host: Host) -> "AsyncConnectionPool":
    """Make a pool of connections for an event loop. None of them is opened yet."""
    from redis.asyncio import ConnectionPool
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
    from redis.backoff import NoBackoff

    pool: ConnectionPool = _pool(
        host, ConnectionPool, Sentinel, SentinelConnectionPool, Retry(NoBackoff(), 0)
    )
    return pool


def blocking_pool(host: Host) -> "ConnectionPool":
    """Make a pool of connections that block. None of them is opened yet."""
    from redis import ConnectionPool, connection
    from redis.backoff import NoBackoff
    from redis.retry import Retry
    from redis.sentinel import Sentinel, SentinelConnectionPool

    connection_class = host.get("connection_class")
    if connection_class is not None and connection_class.__module__.startswith("redis.asyncio"):
        host = host | {"connection_class": getattr(connection, connection_class.__name__)}
    pool: ConnectionPool = _pool(
        host, ConnectionPool, Sentinel, SentinelConnectionPool, Retry(NoBackoff(), 0)
    )
    return pool


def with_sentinels(pool: Any) -> list[Any]:
    """Return ``pool``, and the pools by which it asks sentinels, if it does."""
    manager = getattr(pool, "sentinel_manager", None)
    asked = [] if manager is None else manager.sentinels
    return [pool, *(sentinel.connection_pool for sentinel in asked)]


def _pool(
    host: Host, make_pool: Any, make_sentinel: Any, make_sentinel_pool: Any, once: Any
) -> Any:
    options = {**host, "protocol": 2}
    never_again = {"retry": once, "retry_on_error": []}
    master = options.pop("master_name", None)
    if "address" in options:
        pool = make_pool.from_url(options.pop("address"), **options)
    elif master is None:
        pool = make_pool(**options)
    else:
        timeouts = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), _SENTINEL_TIMEOUT)
        of_sentinels = timeouts | (options.pop("sentinel_kwargs", None) or {}) | never_again
        sentinels = make_sentinel(options.pop("sentinels"), sentinel_kwargs=of_sentinels)
        pool = make_sentinel_pool(master, sentinels, **options)
    # Replies are bytes; the connections' users keep the deadlines, and know what to do if one breaks.
    pool.connection_kwargs.update(
        never_again, socket_timeout=None, decode_responses=False, health_check_interval=0
    )
    return pool
