"""The settings: one ``DWSPS`` dict, one property per key. docs/reference/settings.md is their reference.

Read when they are needed, never at import, so that ``override_settings`` works.
"""

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.crypto import salted_hmac
from django.utils.module_loading import import_string

from dwsps_channels.broker.channel_layer.layers import database_numbers
from dwsps_channels.capturing import is_under_test
from dwsps_channels.connections.origins import is_origin
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.policy import Policy
from dwsps_channels.protocol.depth import MAX_DEPTH

T = TypeVar("T")

_DEFAULTS = Limits()


class Conf:
    """The ``DWSPS`` setting, each key with its default beside it. A bad value raises ``ImproperlyConfigured``."""

    @property
    def SERVER_NAME(self) -> str:
        """What the server is called in logs and by its peers. Processes of the same name on one broker are one server."""
        return _checked(
            "SERVER_NAME", "dwsps", _is_name, "1 to 64 ASCII letters, digits, '.', '-' or '_'"
        )

    @property
    def SERVER_URL(self) -> str:
        """Where the server's websocket is, for those on this machine who need it."""
        return _checked(
            "SERVER_URL",
            "ws://127.0.0.1:8000/ws/pubsub/",
            _is_websocket_url,
            "a URL that begins with ws:// or wss://",
        )

    @property
    def PUBLIC_URL(self) -> str | None:
        """Where browsers find the websocket. ``None``: on the host of the page, at the project's own prefix."""
        return _checked(
            "PUBLIC_URL",
            None,
            lambda value: value is None or _is_websocket_url(value),
            "a URL that begins with ws:// or wss://, or None",
        )

    @property
    def ALLOWED_ORIGINS(self) -> list[str] | None:
        """Where browsers may connect from: ``https://example.com``. ``None``: from the server's own origin only."""
        return _checked(
            "ALLOWED_ORIGINS",
            None,
            _is_origins,
            "a list of origins, such as 'https://example.com' ('*': any)",
        )

    @property
    def POLICY(self) -> type[Policy]:
        """The class that decides who may subscribe and publish. The setting is its dotted path."""
        path = _checked(
            "POLICY",
            "dwsps_channels.policies.AllowAll",
            lambda value: isinstance(value, str),
            "a dotted path",
        )
        try:
            policy = import_string(path)
        except (ImportError, TypeError, ValueError) as error:  # the latter two for '.policies.Mine'
            raise _improper(
                "POLICY", f"the dotted path of a class that can be imported ({error})"
            ) from error
        if not (
            isinstance(policy, type)
            and callable(getattr(policy, "may_subscribe", None))
            and callable(getattr(policy, "may_publish", None))
        ):
            raise _improper(
                "POLICY", f"a class with may_subscribe and may_publish, which '{path}' is not"
            )
        return policy

    @property
    def LOOKUP_THREADS(self) -> int:
        """How many threads of a process look up who connects: the user of a session, the peer of a secret."""
        return _checked("LOOKUP_THREADS", 4, _is_count, "a whole number above 0")

    @property
    def POLICY_THREADS(self) -> int:
        """How many threads of a process ask the plain methods of a policy."""
        return _checked("POLICY_THREADS", 8, _is_count, "a whole number above 0")

    @property
    def CHANNEL_LAYER(self) -> str | None:
        """The channel layer over which the server's processes reach each other. ``None``: this process is alone."""
        return _checked(
            "CHANNEL_LAYER",
            "default",
            lambda value: value is None or isinstance(value, str),
            "a key of CHANNEL_LAYERS",
        )

    @property
    def PUBLISH_TIMEOUT(self) -> float:
        """How many seconds a call of ``publish`` may take, whatever the server or Redis does."""
        return _checked("PUBLISH_TIMEOUT", 2.0, _is_positive, "a number above 0")

    @property
    def MAX_MESSAGE_BYTES(self) -> int:
        """The largest message that a client may send, in bytes of UTF-8."""
        return _checked(
            "MAX_MESSAGE_BYTES", _DEFAULTS.message_bytes, _is_count, "a whole number above 0"
        )

    @property
    def MAX_MESSAGE_DEPTH(self) -> int:
        """How deep arrays and objects of a message may lie within each other."""
        return _checked(
            "MAX_MESSAGE_DEPTH",
            _DEFAULTS.message_depth,
            lambda value: _is_count(value) and value <= MAX_DEPTH,
            f"a whole number from 1 to {MAX_DEPTH}",
        )

    @property
    def MAX_SUBSCRIPTIONS(self) -> int:
        """How many topics a connection may be subscribed to."""
        return _checked(
            "MAX_SUBSCRIPTIONS", _DEFAULTS.subscriptions, _is_count, "a whole number above 0"
        )

    @property
    def MAX_SUBSCRIPTION_BYTES(self) -> int:
        """How many bytes the topics may have together that a connection is subscribed to."""
        return _checked(
            "MAX_SUBSCRIPTION_BYTES",
            _DEFAULTS.subscription_bytes,
            _is_count,
            "a whole number above 0",
        )

    @property
    def MAX_BUFFERED_BYTES(self) -> int:
        """How much may wait for a client that does not read before it is closed with 4100."""
        return _checked(
            "MAX_BUFFERED_BYTES", _DEFAULTS.buffered_bytes, _is_count, "a whole number above 0"
        )

    @property
    def MAX_CONNECTIONS(self) -> int | None:
        """How many clients may be connected to a process. ``None``: as many as the machine bears."""
        return _checked("MAX_CONNECTIONS", None, _is_bound, "a whole number above 0, or None")

    @property
    def MAX_CONNECTIONS_PER_ADDRESS(self) -> int | None:
        """How many of them may come from one address. ``None``: any number."""
        return _checked(
            "MAX_CONNECTIONS_PER_ADDRESS", None, _is_bound, "a whole number above 0, or None"
        )

    @property
    def RATE_LIMIT(self) -> float | None:
        """How many messages a second a connection may send in the long run. ``None``: as many as it likes."""
        return _checked(
            "RATE_LIMIT",
            _DEFAULTS.rate,
            lambda value: value is None or _is_positive(value),
            "a number above 0, or None",
        )

    @property
    def RATE_BURST(self) -> int:
        """How many messages a connection may send at once, where ``RATE_LIMIT`` is set."""
        return _checked("RATE_BURST", _DEFAULTS.burst, _is_count, "a whole number above 0")

    @property
    def RATE_LIMIT_BYTES(self) -> float | None:
        """How many bytes of messages a second a connection may send in the long run. ``None``: as many as it likes."""
        return _checked(
            "RATE_LIMIT_BYTES",
            _DEFAULTS.rate_bytes,
            lambda value: value is None or _is_positive(value),
            "a number above 0, or None",
        )

    @property
    def RATE_BURST_BYTES(self) -> int:
        """How many bytes of messages a connection may send at once, where ``RATE_LIMIT_BYTES`` is set."""
        return _checked(
            "RATE_BURST_BYTES", _DEFAULTS.burst_bytes, _is_count, "a whole number above 0"
        )

    @property
    def TAIL_MESSAGES(self) -> int:
        """How many messages are kept for a worker that is away."""
        return _checked("TAIL_MESSAGES", 10_000, _is_count, "a whole number above 0")

    @property
    def TAIL_BYTES(self) -> int:
        """How many bytes of messages are kept for a worker that is away."""
        return _checked("TAIL_BYTES", 16 * 1024 * 1024, _is_count, "a whole number above 0")

    @property
    def TAIL_MAX_AGE(self) -> float:
        """For how many seconds messages are kept for a worker that is away."""
        return _checked("TAIL_MAX_AGE", 300.0, _is_positive, "a number above 0")

    @property
    def OUTBOX_MESSAGES(self) -> int:
        """How many messages the worker keeps for each peer that cannot be reached."""
        return _checked("OUTBOX_MESSAGES", 10_000, _is_count, "a whole number above 0")

    @property
    def OUTBOX_BYTES(self) -> int:
        """How many bytes of messages the worker keeps for each peer that cannot be reached."""
        return _checked("OUTBOX_BYTES", 16 * 1024 * 1024, _is_count, "a whole number above 0")

    @property
    def group(self) -> str:
        """The group of the channel layer by which the server's processes reach each other.

        Its name tells servers on one Redis apart: by ``SERVER_NAME``, ``SECRET_KEY`` and the number of the database.
        With ``SECRET_KEY_FALLBACKS`` it is the oldest key, so that a new key can be introduced process by process.
        Under test it is another.
        """
        key = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS][-1]
        numbers = database_numbers(self.CHANNEL_LAYER)
        mark = salted_hmac("dwsps_channels.broker", repr(numbers), secret=key, algorithm="sha256")
        # As the database of tests has another name: they share a developer's Redis, too.
        test = ".test" if is_under_test() else ""
        return f"dwsps.broker.{self.SERVER_NAME}.{mark.hexdigest()[:16]}{test}"

    @property
    def limits(self) -> Limits:
        """The caps on one connection, of the keys above."""
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


conf = Conf()

KEYS = tuple(name for name in vars(Conf) if name.isupper())


def configured() -> dict[str, Any]:
    """The ``DWSPS`` setting as the project wrote it."""
    value = getattr(settings, "DWSPS", {})
    if not isinstance(value, dict):
        raise ImproperlyConfigured("DWSPS must be a dict")
    return value


def _checked(key: str, default: T, is_valid: Callable[[Any], bool], expected: str) -> T:
    value: T = configured().get(key, default)
    if not is_valid(value):
        raise _improper(key, expected)
    return value


def _improper(key: str, expected: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"DWSPS['{key}'] must be {expected}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_bound(value: Any) -> bool:
    return value is None or _is_count(value)


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _is_name(value: Any) -> bool:
    return (
        isinstance(value, str)
        and 1 <= len(value) <= 64
        and value.isascii()
        and all(character.isalnum() or character in ".-_" for character in value)
    )


def _is_websocket_url(value: Any) -> bool:
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        return parts is not None and parts.scheme in ("ws", "wss") and bool(parts.hostname)
    except ValueError:
        return False


def _is_origins(value: Any) -> bool:
    return value is None or (
        isinstance(value, (list, tuple))
        and all(
            origin == "*" or (isinstance(origin, str) and is_origin(origin)) for origin in value
        )
    )
