"""The brokers that ``DWSPS["BROKER"]`` can name: each with its options, and its part of the system checks."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from inspect import isabstract
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol
from uuid import uuid4

import msgspec
from django.conf import settings
from django.core.checks import CheckMessage, Error, Info
from django.core.exceptions import ImproperlyConfigured
from django.db import router
from django.utils.crypto import salted_hmac
from django.utils.module_loading import import_string
from msgspec import Struct

from dwsps_channels.broker.memory import MemoryBroker
from dwsps_channels.capturing import is_under_test
from dwsps_channels.conf import conf, improper
from dwsps_channels.core.broker import Broker, SendResult
from dwsps_channels.core.log import Log
from dwsps_channels.core.log_source import LogSource
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.retention import Retention

if TYPE_CHECKING:
    from dwsps_channels.broker.database.roots import Roots
    from dwsps_channels.broker.redis.hosts import Host
    from dwsps_channels.broker.redis.layout import Layout

IN_MEMORY_LAYER: Final = "channels.layers.InMemoryChannelLayer"

logger = logging.getLogger("dwsps_channels.broker")

UNUSABLE: Final = "dwsps_channels.E009"
"""The id of the error that what the broker runs over cannot be used."""


class BrokerSender(Protocol):
    """Publishes to the server from a process that is not part of it. For one thread at a time."""

    def publish(self, publication: Publication, deadline: float, key: str = "") -> SendResult:
        """Publish; block until the broker has the publication, at most until ``deadline``, by ``time.monotonic``.

        With the key of a publication that the broker has had, the result has that one's offset, and nothing is published.

        Raises:
            TimeoutError: not before the deadline. The server may have it nevertheless.
            OSError: the broker cannot be reached. The text says why.
        """
        ...

    def close(self) -> None:
        """Close the connection, without waiting."""


class LogReader(Protocol):
    """Reads the log from a process that is not part of the server. For one thread at a time.

    All methods raise ``TimeoutError``, not before the deadline, a time of ``time.monotonic``; or ``OSError`` if the broker
    cannot be reached. The text says why.
    """

    def cursor(self, deadline: float) -> str:
        """Return the cursor of the log's end."""
        ...

    def load(
        self, topic: str, deadline: float, *, since: str | None = None, last: int | None = None
    ) -> Log:
        """Return the log with at least all that is kept at and below ``topic``.

        With ``since`` that is not needed up to this cursor, with ``last`` the newest so many will do.
        """
        ...

    def close(self) -> None:
        """Close the connection, without waiting."""


class BrokerBackend(ABC):
    """A broker as a project configures it. Subclass it to bring another one."""

    joins_processes: ClassVar[bool] = False
    """True if processes that have it are one server."""

    if_several: ClassVar[str] = (
        "messages that are published in one do not reach the clients of the others"
    )
    """The consequence of starting several processes that it does not join, as a clause."""

    keeps_log: ClassVar[bool] = False
    """True if the broker has a log: see ``Receiver.begin``."""

    class Options(Struct, frozen=True, forbid_unknown_fields=True):
        """The keys of ``OPTIONS``."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Take the ``OPTIONS`` of the setting.

        Raises:
            ImproperlyConfigured: a key is unknown, or its value cannot be.
        """
        try:
            self.options: Any = msgspec.convert(dict(options), self.Options)
        except msgspec.ValidationError as error:
            raise ImproperlyConfigured(
                f"DWSPS['BROKER']['OPTIONS'] of {type(self).__name__}: {error}"
            ) from error

    @property
    def retention(self) -> Retention:
        """The bounds of the log: what a peer misses beyond them is lost to it."""
        return conf.retention

    @abstractmethod
    def make_broker(self) -> Broker:
        """Make the broker of a process that serves."""

    def make_sender(self) -> BrokerSender | None:
        """Make a sender for a process that does not serve. ``None``: this broker reaches no other process."""
        return None

    def make_reader(self) -> LogReader | None:
        """Make a reader for a process that does not serve. ``None``: there is no log, or only the server can read it."""
        return None

    def make_source(self) -> LogSource | None:
        """Make a source for a worker. ``None``: only the server can read the log, or the broker keeps no log."""
        return None

    def check(self) -> list[CheckMessage]:
        """Check that the broker can be made, for ``manage.py check``."""
        return []


class MemoryBackend(BrokerBackend):
    """One process is the whole server."""

    keeps_log = True

    def make_broker(self) -> Broker:
        """See ``BrokerBackend.make_broker``."""
        return MemoryBroker()


class DatabaseBackend(BrokerBackend):
    """One process is the whole server, and has its log in a database of the project's."""

    keeps_log = True
    if_several = "one of them serves, and the others refuse all clients"

    class Options(Struct, frozen=True, forbid_unknown_fields=True):
        """The keys of ``OPTIONS``."""

        USING: str | None = None
        """A key of ``DATABASES``; ``None``: the one that the project's routers choose."""

    options: Options

    @property
    def using(self) -> str:
        """The alias of the database."""
        from dwsps_channels.models import LogEntry

        return self.options.USING or router.db_for_write(LogEntry)

    @property
    def retention(self) -> Retention:
        """See ``BrokerBackend.retention``."""
        return conf.log_retention

    @property
    def _roots(self) -> "Roots":
        # Not at the top: models cannot be imported before the apps are ready.
        from dwsps_channels.broker.database.roots import Roots

        return Roots(conf.log_retention, conf.retention, conf.log_history)

    def make_broker(self) -> Broker:
        """See ``BrokerBackend.make_broker``.

        Under test it is the broker in memory: no other connection sees the transaction that a test is in.
        """
        from dwsps_channels.broker.database.broker import DatabaseBroker
        from dwsps_channels.broker.database.table import LogTable

        if is_under_test():
            return MemoryBroker()
        return DatabaseBroker(LogTable(self.using, self._roots), conf.TIMINGS)

    def make_reader(self) -> LogReader:
        """See ``BrokerBackend.make_reader``."""
        from dwsps_channels.broker.database.reader import DatabaseReader

        return DatabaseReader(self.using, self._roots, conf.replay_limits)

    def make_source(self) -> LogSource:
        """See ``BrokerBackend.make_source``."""
        from dwsps_channels.broker.database.source import DatabaseSource

        return DatabaseSource(self.using)

    def check(self) -> list[CheckMessage]:
        """See ``BrokerBackend.check``."""
        alias = self.using
        if alias not in settings.DATABASES:
            return [
                Error(
                    f"DWSPS['BROKER'] uses the database '{alias}', which is not in DATABASES",
                    hint="name one of DATABASES as USING in its OPTIONS, or leave it out",
                    id=UNUSABLE,
                )
            ]
        described = settings.DATABASES[alias]
        is_sqlite = described["ENGINE"].endswith(("sqlite3", "spatialite"))
        name = str(described.get("NAME"))
        in_memory = ":memory:" in name or "mode=memory" in name
        if is_sqlite and in_memory and not is_under_test():
            return [
                Error(
                    f"DWSPS['BROKER'] cannot use the database '{alias}': an SQLite database in memory is another one "
                    "for each thread",
                    hint="name a file, or use MemoryBackend",
                    id=UNUSABLE,
                )
            ]
        mode = described.get("OPTIONS", {}).get("transaction_mode") or ""
        if is_sqlite and mode.upper() not in ("IMMEDIATE", "EXCLUSIVE"):
            return [
                Info(
                    f"the log is in the SQLite database '{alias}': a transaction of the project's that reads before it writes "
                    "fails with 'database is locked' if the log was written in between",
                    hint="set 'transaction_mode': 'IMMEDIATE' in its OPTIONS; or give the log a database of its own by USING",
                    id="dwsps_channels.I003",
                )
            ]
        return []


class ChannelLayerBackend(BrokerBackend):
    """All processes that share a channel layer, ``SERVER_NAME`` and ``SECRET_KEY`` are one server."""

    joins_processes = True

    class Options(Struct, frozen=True, forbid_unknown_fields=True):
        """The keys of ``OPTIONS``."""

        LAYER: str = "default"
        """A key of ``CHANNEL_LAYERS``."""

    options: Options

    @property
    def group(self) -> str:
        """The group of the channel layer through which the server's processes reach each other."""
        from dwsps_channels.broker.channel_layer.layers import database_numbers

        return _server_name("broker", database_numbers(self.options.LAYER))

    def make_broker(self) -> Broker:
        """See ``BrokerBackend.make_broker``."""
        # Not at the top: channels-redis is needed only here.
        from dwsps_channels.broker.channel_layer.broker import ChannelLayerBroker
        from dwsps_channels.broker.channel_layer.layers import layer_factory

        logger.info(
            "no history is kept, as a channel layer has none: clients that were away load their state again"
        )
        return ChannelLayerBroker(
            layer_factory(self.options.LAYER), process_id=uuid4().hex, group=self.group
        )

    def make_sender(self) -> BrokerSender:
        """See ``BrokerBackend.make_sender``."""
        from dwsps_channels.broker.channel_layer.layers import layer_factory
        from dwsps_channels.broker.channel_layer.sender import ChannelLayerSender

        return ChannelLayerSender(layer_factory(self.options.LAYER), group=self.group)

    def check(self) -> list[CheckMessage]:
        """See ``BrokerBackend.check``."""
        alias = self.options.LAYER
        found = _check_layer(alias)
        if found:
            return found
        hint = "clients that were away load their state again; with a layer of channels_redis, they miss nothing"
        if redis_layer(_layers()[alias]) is not None:
            hint = "leave DWSPS['BROKER'] out, or name RedisBackend: clients that were away then miss nothing"
        return [
            Info(
                f"the server's processes share the channel layer '{alias}', which keeps no history",
                hint=hint,
                id="dwsps_channels.I001",
            )
        ]


class RedisBackend(BrokerBackend):
    """All processes that share a Redis, ``SERVER_NAME`` and ``SECRET_KEY`` are one server."""

    joins_processes = True
    keeps_log = True

    class Options(Struct, frozen=True, forbid_unknown_fields=True):
        """The keys of ``OPTIONS``."""

        LAYER: str = "default"
        """A key of ``CHANNEL_LAYERS``, a layer of channels-redis: its Redis has the log."""

        HOSTS: list[Any] | None = None
        """The Redis, if it is not that of a layer, in the forms that ``hosts`` of channels-redis takes."""

    options: Options

    @property
    def config(self) -> Mapping[str, Any]:
        """The part of a layer's ``CONFIG`` that says where Redis is, and what may be kept there in which form.

        Raises:
            ImproperlyConfigured: there is no such layer, or it is none of channels-redis.
        """
        if self.options.HOSTS is not None:
            return {"hosts": self.options.HOSTS, "prefix": "dwsps"}
        alias = self.options.LAYER
        config = redis_layer(_layers().get(alias, {}))
        if config is None:
            raise ImproperlyConfigured(
                f"CHANNEL_LAYERS['{alias}'] cannot be used: it is not a layer of channels_redis"
            )
        return config

    @property
    def retention(self) -> Retention:
        """See ``BrokerBackend.retention``."""
        return conf.log_retention

    @property
    def _place(self) -> "tuple[Host, Layout]":
        # Not at the top: Redis is needed only here.
        from dwsps_channels.broker.redis.hosts import choose_host, decode_hosts, make_crypter
        from dwsps_channels.broker.redis.layout import Layout

        config = self.config
        name = f"{config.get('prefix', 'asgi')}:{_server_name('log', [])}"
        crypter = make_crypter(config.get("symmetric_encryption_keys"))
        layout = Layout(name, conf.log_retention, conf.log_history, crypter, tail=conf.retention)
        return choose_host(decode_hosts(config.get("hosts")), name), layout

    def make_broker(self) -> Broker:
        """See ``BrokerBackend.make_broker``."""
        from dwsps_channels.broker.redis.broker import RedisBroker
        from dwsps_channels.broker.redis.hosts import async_pool

        host, layout = self._place
        return RedisBroker(partial(async_pool, host), layout)

    def make_sender(self) -> BrokerSender:
        """See ``BrokerBackend.make_sender``."""
        from dwsps_channels.broker.redis.sender import RedisSender

        return RedisSender(*self._place)

    def make_reader(self) -> LogReader:
        """See ``BrokerBackend.make_reader``."""
        from dwsps_channels.broker.redis.reader import RedisReader

        return RedisReader(*self._place, conf.replay_limits)

    def make_source(self) -> LogSource:
        """See ``BrokerBackend.make_source``."""
        from dwsps_channels.broker.redis.hosts import async_pool
        from dwsps_channels.broker.redis.source import RedisSource

        host, layout = self._place
        return RedisSource(partial(async_pool, host), layout)

    def check(self) -> list[CheckMessage]:
        """See ``BrokerBackend.check``."""
        if self.options.HOSTS is None and (found := _check_layer(self.options.LAYER)):
            return found
        hint = "correct it, or name another BACKEND"
        try:
            # All but the connection itself.
            self.make_broker()
            self.make_sender()
        except ImportError as error:
            return [
                Error(
                    f"DWSPS['BROKER'] needs Redis: {error}", hint="pip install redis", id=UNUSABLE
                )
            ]
        except ImproperlyConfigured as error:
            return [Error(str(error), hint=hint, id=UNUSABLE)]
        except Exception as error:
            problem = f"DWSPS['BROKER'] cannot use the Redis that is configured: {error}"
            return [Error(problem, hint=hint, id=UNUSABLE)]
        return []


def configured_backend() -> BrokerBackend:
    """Return the backend that the settings ask for.

    Raises:
        ImproperlyConfigured: it cannot be imported, or does not take its options.
    """
    chosen = conf.BROKER
    if chosen is None:
        described = _layers().get("default")
        if described is None or described.get("BACKEND") == IN_MEMORY_LAYER:
            return MemoryBackend({})
        return ChannelLayerBackend({}) if redis_layer(described) is None else RedisBackend({})
    try:
        backend = import_string(chosen.BACKEND)
    except (ImportError, TypeError, ValueError) as error:
        raise improper(
            "BROKER", f"a dict whose BACKEND is a class that can be imported ({error})"
        ) from error
    if (
        not isinstance(backend, type)
        or not issubclass(backend, BrokerBackend)
        or isabstract(backend)
    ):
        raise improper(
            "BROKER",
            f"a dict whose BACKEND is a BrokerBackend that can be made, which '{chosen.BACKEND}' is not",
        )
    return backend(chosen.OPTIONS)


def redis_layer(described: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the ``CONFIG`` of a layer of channels-redis, or of a subclass; ``None``: it is another layer."""
    config: Mapping[str, Any] = described.get("CONFIG", {})
    backend = str(described.get("BACKEND", ""))
    if backend.startswith("channels_redis."):
        return config
    with suppress(Exception):  # what is wrong with it is for the check to say
        layer = import_string(backend)
        from channels_redis.core import RedisChannelLayer
        from channels_redis.pubsub import RedisPubSubChannelLayer

        if issubclass(layer, RedisPubSubChannelLayer):
            return config
        # One that makes its connections in its own way makes none for us.
        if issubclass(layer, RedisChannelLayer):
            is_plain = layer.create_pool is RedisChannelLayer.create_pool
            return config if is_plain else None
    return None


def _server_name(kind: str, numbers: Sequence[int]) -> str:
    """Return a name for what the server's processes share, and no other server.

    It tells servers on one Redis apart: by ``SERVER_NAME``, ``SECRET_KEY``, and the ``numbers`` of databases.
    With ``SECRET_KEY_FALLBACKS`` it is the oldest key, so that a new key can be introduced process by process.
    Under test it is another.
    """
    key = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS][-1]
    mark = salted_hmac(f"dwsps_channels.{kind}", repr(numbers), secret=key, algorithm="sha256")
    # As the database of tests has another name: they share a developer's Redis, too.
    test = ".test" if is_under_test() else ""
    return f"dwsps.{kind}.{conf.SERVER_NAME}.{mark.hexdigest()[:16]}{test}"


def _check_layer(alias: str) -> list[CheckMessage]:
    described = _layers().get(alias)
    if described is None:
        return [
            Error(
                f"DWSPS['BROKER'] uses the channel layer '{alias}', which is not in CHANNEL_LAYERS",
                hint="name one of CHANNEL_LAYERS as LAYER in its OPTIONS, or use MemoryBackend if the server is "
                "one process",
                id="dwsps_channels.E006",
            )
        ]
    backend = str(described.get("BACKEND"))
    try:
        import_string(backend)
    except Exception as error:
        package = backend.partition(".")[0]
        hint = f"correct its BACKEND, or install the package that has '{package}'"
        if package == "channels_redis":
            hint = "pip install channels_redis"
        problem = f"CHANNEL_LAYERS['{alias}'] cannot be used: {error}"
        return [Error(problem, hint=hint, id=UNUSABLE)]
    return []


def _layers() -> dict[str, dict[str, Any]]:
    layers: dict[str, dict[str, Any]] = getattr(settings, "CHANNEL_LAYERS", {})
    return layers
