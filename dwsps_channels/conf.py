"""The settings: the ``DWSPS`` dict as one frozen struct. docs/reference/settings.md is their reference.

Import ``conf`` and read its attributes. The dict is converted when an attribute is first read, not at import, and
again after ``override_settings`` replaced it.
"""

from collections.abc import Callable
from difflib import get_close_matches
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints
from urllib.parse import urlsplit

import msgspec
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from msgspec import Meta, Struct, field

from dwsps_channels.core.limits import Limits
from dwsps_channels.core.notice import MAX_NOTICES, NOTICE_BYTES
from dwsps_channels.core.policy import Policy
from dwsps_channels.core.replay import ReplayLimits
from dwsps_channels.core.retention import Retention
from dwsps_channels.core.timings import Timings
from dwsps_channels.protocol.depth import MAX_DEPTH
from dwsps_channels.protocol.errors import InvalidTopic
from dwsps_channels.protocol.origins import is_origin
from dwsps_channels.protocol.topics import NOTICES, check

_LIMITS = Limits()
_RETENTION = Retention()
_REPLAY_LIMITS = ReplayLimits()


Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
# Databases, Redis and timers compute with it: an infinite one would fail there.
Duration = Annotated[float, Meta(gt=0, le=1e9)]

A_COUNT = "a whole number above 0"
A_POSITIVE = "a number above 0"
A_DURATION = "a number above 0, and at most 1e9"


def _must_be(expected: str, description: str) -> Meta:
    """Describe a key: ``expected`` ends the sentence "DWSPS['KEY'] must be …"; ``description`` is the hint of the check."""
    return Meta(description=description, extra={"expected": expected})


class Backend(Struct, frozen=True, forbid_unknown_fields=True):
    """A class of several to choose from, and its options, as in Django's ``CACHES``."""

    BACKEND: str
    """The dotted path of the class."""

    OPTIONS: dict[str, Any] = field(default_factory=dict)
    """Known to the class alone, which checks them."""


class History(Struct, frozen=True, forbid_unknown_fields=True):
    """The bounds of a topic and all below it; ``None``: as in the ``TAIL_`` keys."""

    messages: Count | None = None
    bytes: Count | None = None
    seconds: Duration | None = None


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """The ``DWSPS`` setting: each key with its type, its default and its description."""

    SERVER_NAME: Annotated[
        str,
        Meta(pattern=r"\A[A-Za-z0-9._-]{1,64}\Z"),
        _must_be(
            "1 to 64 ASCII letters, digits, '.', '-' or '_'",
            "The name of the server in logs and for its peers. Processes that share a name and a broker are one server.",
        ),
    ] = "dwsps"

    SERVER_URL: Annotated[
        str,
        _must_be(
            "a URL that begins with ws:// or wss://",
            "The URL of the server's websocket, for the worker and for publish() in processes that serve nothing.",
        ),
    ] = "ws://127.0.0.1:8000/ws/pubsub/"

    PUBLIC_URL: Annotated[
        str | None,
        _must_be(
            "a URL that begins with ws:// or wss://, or None",
            "The URL of the websocket for browsers. None: on the host of the page, below the project's prefix.",
        ),
    ] = None

    ALLOWED_ORIGINS: Annotated[
        tuple[str, ...] | None,
        _must_be(
            "a list of origins, such as 'https://example.com' ('*': any)",
            "The origins of pages that may connect: https://example.com. None: the server's own origin only.",
        ),
    ] = None

    POLICY: Annotated[
        str,
        _must_be(
            "a dotted path",
            "The class that decides who may subscribe and publish, as a dotted path.",
        ),
    ] = "dwsps_channels.policies.AllowAll"

    AUTHENTICATOR: Annotated[
        str | None,
        _must_be(
            "a dotted path, or None",
            "The callable that tells the user of a token, or its class, as a dotted path: "
            "'dwsps_channels.tokens.SignedToken'. None: no token is accepted.",
        ),
    ] = None

    GRANT_MAX_AGE: Annotated[
        Duration,
        _must_be(
            A_DURATION,
            "Seconds after which a grant expires, and for which its revocation is remembered.",
        ),
    ] = 3600.0

    REVOKE: Annotated[
        bool,
        _must_be(
            "True or False",
            "Whether a logout, a changed password, a deactivated user and the like end connections and subscriptions.",
        ),
    ] = True

    LOOKUP_THREADS: Annotated[
        Count,
        _must_be(
            A_COUNT,
            "Threads of a process that look up the user of a session and the peer of a secret, and as many for tokens.",
        ),
    ] = 4

    POLICY_THREADS: Annotated[
        Count, _must_be(A_COUNT, "Threads of a process that call the plain methods of a policy.")
    ] = 8

    BROKER: Annotated[
        Backend | None,
        _must_be(
            "a dict with a BACKEND, and OPTIONS if it needs any, or None",
            "How the server's processes reach each other. None: over the Redis of the channel layer 'default' if that is a "
            "layer of channels_redis; over the layer if it is another that processes share; else this process is the "
            "whole server.",
        ),
    ] = None

    PUBLISH_TIMEOUT: Annotated[
        Duration,
        _must_be(
            A_DURATION,
            "Seconds that a call of publish() or history() may take, whatever the server or the broker does.",
        ),
    ] = 2.0

    MAX_MESSAGE_BYTES: Annotated[
        Count, _must_be(A_COUNT, "The largest message that a client may send, in bytes of UTF-8.")
    ] = _LIMITS.message_bytes

    MAX_MESSAGE_DEPTH: Annotated[
        int,
        Meta(ge=1, le=MAX_DEPTH),
        _must_be(
            f"a whole number from 1 to {MAX_DEPTH}",
            "How deeply arrays and objects of a message may be nested.",
        ),
    ] = _LIMITS.message_depth

    MAX_SUBSCRIPTIONS: Annotated[
        Count, _must_be(A_COUNT, "Topics that a connection may be subscribed to.")
    ] = _LIMITS.subscriptions

    MAX_SUBSCRIPTION_BYTES: Annotated[
        Count, _must_be(A_COUNT, "Bytes that these topics may have together.")
    ] = _LIMITS.subscription_bytes

    MAX_BUFFERED_BYTES: Annotated[
        Count,
        _must_be(
            A_COUNT,
            "Bytes that may wait for a client that does not read before it is closed with 4100.",
        ),
    ] = _LIMITS.buffered_bytes

    MAX_CONNECTIONS: Annotated[
        Count | None,
        _must_be(
            f"{A_COUNT}, or None", "Clients that may be connected to a process. None: no limit."
        ),
    ] = None

    MAX_CONNECTIONS_PER_ADDRESS: Annotated[
        Count | None,
        _must_be(
            f"{A_COUNT}, or None",
            "Clients of a process that may come from one address. None: no limit.",
        ),
    ] = None

    RATE_LIMIT: Annotated[
        Positive | None,
        _must_be(
            f"{A_POSITIVE}, or None",
            "Messages a second that a connection may send in the long run. None: no limit.",
        ),
    ] = _LIMITS.rate

    RATE_BURST: Annotated[
        Count,
        _must_be(A_COUNT, "Messages that a connection may send at once if RATE_LIMIT is set."),
    ] = _LIMITS.burst

    RATE_LIMIT_BYTES: Annotated[
        Positive | None,
        _must_be(
            f"{A_POSITIVE}, or None",
            "Bytes of messages a second that a connection may send in the long run. None: no limit.",
        ),
    ] = _LIMITS.rate_bytes

    RATE_BURST_BYTES: Annotated[
        Count,
        _must_be(
            A_COUNT,
            "Bytes of messages that a connection may send at once if RATE_LIMIT_BYTES is set.",
        ),
    ] = _LIMITS.burst_bytes

    TAIL_MESSAGES: Annotated[
        Count, _must_be(A_COUNT, "Messages that a process keeps for clients and the worker.")
    ] = _RETENTION.messages

    TAIL_BYTES: Annotated[Count, _must_be(A_COUNT, "Bytes of memory that they may take.")] = (
        _RETENTION.bytes
    )

    TAIL_MAX_AGE: Annotated[Duration, _must_be(A_DURATION, "Seconds for which they are kept.")] = (
        _RETENTION.seconds
    )

    LOG_MESSAGES: Annotated[
        Count,
        _must_be(A_COUNT, "Messages that Redis or the database keeps for peers that are away."),
    ] = 100_000

    LOG_BYTES: Annotated[
        Count, _must_be(A_COUNT, "Bytes of messages that Redis or the database keeps.")
    ] = 64 * 1024 * 1024

    LOG_MAX_AGE: Annotated[
        Duration, _must_be(A_DURATION, "Seconds for which Redis or the database keeps messages.")
    ] = 86_400.0

    HISTORY: Annotated[
        dict[str, History | None],
        _must_be(
            "a dict of topics, each with a dict of 'messages', 'bytes' and 'seconds', or None",
            "What is kept of a topic and all below it, apart from the rest. None: nothing. What a dict leaves out is as "
            "in TAIL_MESSAGES, TAIL_BYTES and TAIL_MAX_AGE.",
        ),
    ] = field(default_factory=dict)

    RESUME_MESSAGES: Annotated[
        Count,
        _must_be(A_COUNT, "Messages that a client that resumes may be sent again."),
    ] = _REPLAY_LIMITS.messages

    RESUME_BYTES: Annotated[
        Count,
        _must_be(A_COUNT, "Bytes of messages that a client that resumes may be sent again."),
    ] = _REPLAY_LIMITS.bytes

    DURABLE_MAX_AGE: Annotated[
        Duration,
        _must_be(
            A_DURATION,
            "Seconds for which a durable message that cannot be published is kept.",
        ),
    ] = 86_400.0

    TIMINGS: Annotated[
        Timings,
        _must_be(
            "a dict of timings, each a number above 0, in seconds",
            "Timings of links to peers and of the worker's lease, in seconds.",
        ),
    ] = Timings()

    @cached_property
    def policy_class(self) -> type[Policy]:
        """The class that ``POLICY`` names.

        Raises:
            ImproperlyConfigured: it cannot be imported, or has no ``may_subscribe`` and ``may_publish``.
        """
        policy = _imported("POLICY", self.POLICY, "a class")
        if not (
            isinstance(policy, type)
            and callable(getattr(policy, "may_subscribe", None))
            and callable(getattr(policy, "may_publish", None))
        ):
            raise improper(
                "POLICY",
                f"a class with may_subscribe and may_publish, which '{self.POLICY}' is not",
            )
        return policy

    @cached_property
    def authenticator(self) -> Callable[[str, Any], Any] | None:
        """The callable that ``AUTHENTICATOR`` names, or an instance of the class that it names; ``None``: it is not set.

        Raises:
            ImproperlyConfigured: it cannot be imported, or called with a token and a scope.
        """
        if self.AUTHENTICATOR is None:
            return None
        named = _imported("AUTHENTICATOR", self.AUTHENTICATOR, "a callable")
        try:
            authenticator = named() if isinstance(named, type) else named
            signature(authenticator).bind("token", {})
        except (TypeError, ValueError) as error:
            raise improper(
                "AUTHENTICATOR",
                "a callable that takes a token and a scope, or a class of such without arguments, "
                f"which '{self.AUTHENTICATOR}' is not ({error})",
            ) from error
        called: Callable[[str, Any], Any] = authenticator
        return called

    @property
    def limits(self) -> Limits:
        """The caps on one connection, from the keys above."""
        return Limits(
            message_bytes=self.MAX_MESSAGE_BYTES,
            message_depth=self.MAX_MESSAGE_DEPTH,
            subscriptions=self.MAX_SUBSCRIPTIONS,
            subscription_bytes=self.MAX_SUBSCRIPTION_BYTES,
            buffered_bytes=self.MAX_BUFFERED_BYTES,
            rate=self.RATE_LIMIT,
            burst=self.RATE_BURST,
            rate_bytes=self.RATE_LIMIT_BYTES,
            burst_bytes=self.RATE_BURST_BYTES,
        )

    @property
    def retention(self) -> Retention:
        """The bounds of topics that ``HISTORY`` does not name, in the memory of a process."""
        return Retention(self.TAIL_MESSAGES, self.TAIL_BYTES, self.TAIL_MAX_AGE)

    @property
    def log_retention(self) -> Retention:
        """The bounds of the log, in Redis or the database."""
        return Retention(self.LOG_MESSAGES, self.LOG_BYTES, self.LOG_MAX_AGE)

    @property
    def history(self) -> dict[str, Retention | None]:
        """The bounds of each topic that ``HISTORY`` names, and of all below it; ``None``: nothing is kept."""
        default = self.retention
        return {
            root: None
            if each is None
            else Retention(
                each.messages or default.messages,
                each.bytes or default.bytes,
                each.seconds or default.seconds,
            )
            for root, each in self.HISTORY.items()
        }

    @property
    def log_history(self) -> dict[str, Retention | None]:
        """The bounds of each root that Redis or the database keeps apart: those of ``history``, and the notices about access.

        A process that starts learns from the notices which grants are revoked, however many messages came since.
        """
        notices = Retention(MAX_NOTICES, MAX_NOTICES * NOTICE_BYTES, self.GRANT_MAX_AGE)
        return {NOTICES: notices, **self.history}

    @property
    def replay_limits(self) -> ReplayLimits:
        """The most that a client that resumes is sent again."""
        return ReplayLimits(self.RESUME_MESSAGES, self.RESUME_BYTES)


KEYS = Settings.__struct_fields__

_METAS: dict[str, Meta] = {
    key: hint.__metadata__[-1]
    for key, hint in get_type_hints(Settings, include_extras=True).items()
    if key in KEYS
}


def configured() -> dict[str, Any]:
    """Return the ``DWSPS`` setting as the project wrote it."""
    value = getattr(settings, "DWSPS", _UNSET)
    if not isinstance(value, dict):
        raise ImproperlyConfigured("DWSPS must be a dict")
    return value


_UNSET: dict[str, Any] = {}


def convert(value: dict[str, Any]) -> Settings:
    """Convert a ``DWSPS`` dict.

    Raises:
        ImproperlyConfigured: a key is unknown, or its value cannot be. The text names the key.
    """
    for problem in problems(value).values():
        raise problem
    return msgspec.convert(value, Settings)


def problems(value: dict[str, Any]) -> dict[str, ImproperlyConfigured]:
    """Return the error of each key of a ``DWSPS`` dict that has one. What ``POLICY``, ``AUTHENTICATOR`` and ``BROKER`` name is not imported."""
    return {
        str(key): error for key, each in value.items() if (error := _problem(key, each)) is not None
    }


def describe(key: str) -> str:
    """Return the description of a known key."""
    return str(_METAS[key].description)


def improper(key: str, expected: str) -> ImproperlyConfigured:
    """Return the error of a key whose value is not what is expected."""
    return ImproperlyConfigured(f"DWSPS['{key}'] must be {expected}")


def hint_for_unknown(key: object) -> str:
    """Return the known key that ``key`` is probably meant to be, or all of them."""
    close = get_close_matches(str(key).upper(), KEYS, 1)
    return f"did you mean '{close[0]}'?" if close else f"known are {', '.join(KEYS)}"


def _imported(key: str, path: str, kind: str) -> Any:
    try:
        return import_string(path)
    except (ImportError, TypeError, ValueError) as error:  # the latter two for '.policies.Mine'
        raise improper(key, f"the dotted path of {kind} that can be imported ({error})") from error


def _problem(key: object, value: Any) -> ImproperlyConfigured | None:
    if key not in KEYS:
        return ImproperlyConfigured(f"DWSPS['{key}'] is unknown: {hint_for_unknown(key)}")
    assert isinstance(key, str)
    try:
        converted = msgspec.convert({key: value}, Settings)
    except msgspec.ValidationError as error:
        # What is wrong inside a dict needs its place: "… - at `$.TIMINGS.LEASE_TIMEOUT`".
        inside = f" ({error})" if isinstance(value, dict) else ""
        return improper(key, _expected(key) + inside)
    is_valid = _FURTHER.get(key)
    if is_valid is not None and not is_valid(getattr(converted, key)):
        return improper(key, _expected(key))
    return None


def _expected(key: str) -> str:
    return str((_METAS[key].extra or {})["expected"])


def _is_websocket_url(value: str | None) -> bool:
    try:
        parts = None if value is None else urlsplit(value)
    except ValueError:
        return False
    return parts is None or (parts.scheme in ("ws", "wss") and bool(parts.hostname))


def _are_origins(value: tuple[str, ...] | None) -> bool:
    return value is None or all(origin == "*" or is_origin(origin) for origin in value)


def _are_topics(value: dict[str, Any]) -> bool:
    try:
        for topic in value:
            check(topic)
    except InvalidTopic:
        return False
    return True


# What no constraint of a type can say.
_FURTHER: dict[str, Callable[[Any], bool]] = {
    "SERVER_URL": _is_websocket_url,
    "PUBLIC_URL": _is_websocket_url,
    "ALLOWED_ORIGINS": _are_origins,
    "HISTORY": _are_topics,
}


class _Snapshot:
    """The settings of this process, converted when an attribute is first read."""

    __slots__ = ("_snapshot",)

    def __init__(self) -> None:
        # The dict, and what it was converted to. One assignment replaces both: threads read them meanwhile.
        self._snapshot: tuple[dict[str, Any] | None, Settings] = None, Settings()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for by copy, pickle or a test runner: not a setting
            raise AttributeError(name)
        source = configured()
        known, converted = self._snapshot
        # The dict is another one after override_settings. That sends a signal, too, but not if the key is deleted.
        if known is not source:
            converted = convert(source)
            self._snapshot = source, converted
        return getattr(converted, name)


if TYPE_CHECKING:
    conf = Settings()
else:
    conf = _Snapshot()
"""The settings of this process. Reading an attribute raises ``ImproperlyConfigured`` if any key is wrong."""
