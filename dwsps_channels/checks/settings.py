"""The system checks. docs/reference/checks.md has a line for each."""

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from django.apps import apps
from django.conf import STATICFILES_STORAGE_ALIAS, settings
from django.core.checks import CheckMessage, Error, Info, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import storages
from django.db import DatabaseError, router

from dwsps_channels.broker.backends import BrokerBackend, MemoryBackend, configured_backend
from dwsps_channels.checks.application import CannotLoad, load, ways_of
from dwsps_channels.client.backoff import MAX_DELAY
from dwsps_channels.conf import KEYS, conf, configured, describe, hint_for_unknown, problems
from dwsps_channels.policies import AllowAll

# The first without CVE-2026-44545 and CVE-2026-44546.
SAFE_DAPHNE = (4, 2, 2)

ASGI_SERVERS = ("daphne", "uvicorn", "hypercorn", "granian")

CURSOR_MIDDLEWARE = "dwsps_channels.middleware.CursorMiddleware"

# Daphne's --websocket-max-message-size, unless it is given.
DAPHNE_MESSAGE_BYTES = 1024 * 1024


@register("dwsps_channels")
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Check the ``DWSPS`` setting."""
    try:
        keys = configured()
    except ImproperlyConfigured as error:
        return [
            Error(
                str(error),
                hint="DWSPS = {…}, or leave it out: every key has a default",
                id="dwsps_channels.E001",
            )
        ]
    found = [*_unknown(keys), *_bad_values(keys)]
    return found or [*_unusable(), *_contradictions()]


@register("dwsps_channels")
def check_daphne(**kwargs: Any) -> list[CheckMessage]:
    """Check the version of Daphne, if the project uses it."""
    if not apps.is_installed("daphne"):
        return []
    try:
        installed = version("daphne")
    except PackageNotFoundError:
        return []
    if _parts(installed) >= SAFE_DAPHNE:
        return []
    return [
        Error(
            f"Daphne {installed} has known vulnerabilities: CVE-2026-44545, CVE-2026-44546",
            hint="pip install 'daphne>=4.2.2'",
            id="dwsps_channels.E005",
        )
    ]


@register("dwsps_channels")
def check_servers(**kwargs: Any) -> list[CheckMessage]:
    """Check that a server that can serve websockets is installed."""
    if any(find_spec(name) for name in ASGI_SERVERS):
        return []
    return [
        Warning(
            "no ASGI server is installed: a WSGI server does not serve websockets",
            hint="pip install daphne; or pip install uvicorn uvloop httptools",
            id="dwsps_channels.W007",
        )
    ]


@register("dwsps_channels")
def check_application(**kwargs: Any) -> list[CheckMessage]:
    """Check that websockets reach the consumer, and with a user if the policy needs one."""
    try:
        ways = ways_of(load())
    except CannotLoad as error:
        return [
            Warning(str(error), hint=error.hint, id="dwsps_channels.W006"),
        ]
    if not ways.found and ways.is_whole:
        return [
            Warning(
                f"no websocket route of {settings.ASGI_APPLICATION} leads to PubSubConsumer: clients cannot connect",
                hint='ProtocolTypeRouter({"http": …, "websocket": AuthMiddlewareStack(URLRouter('
                "websocket_urlpatterns))}), with dwsps_channels.routing and dwsps_channels.auth",
                id="dwsps_channels.W005",
            )
        ]
    with suppress(ImproperlyConfigured):
        policy = conf.policy_class
        # Or users come with tokens.
        is_without_users = not ways.has_user and conf.AUTHENTICATOR is None
        if getattr(policy, "needs_user", False) and is_without_users:
            return [
                Warning(
                    f"the policy {policy.__name__} needs to know users, but no middleware on the way to "
                    "PubSubConsumer looks them up: it will refuse everybody",
                    hint="wrap the websocket routes in AuthMiddlewareStack of dwsps_channels.auth; or set "
                    "DWSPS['AUTHENTICATOR'] if clients come with tokens",
                    id="dwsps_channels.W008",
                )
            ]
    return []


@register("dwsps_channels")
def check_static_files(**kwargs: Any) -> list[CheckMessage]:
    """Check that browsers can load all modules of the client."""
    if not apps.is_installed("django.contrib.staticfiles"):
        return []
    try:
        storage = storages[STATICFILES_STORAGE_ALIAS]
    except ImproperlyConfigured:
        return []  # Django reports it
    keeps_only_hashed_names = getattr(storage, "keep_only_hashed_files", False)
    rewrites_imports = getattr(storage, "support_js_module_import_aggregation", False)
    if not keeps_only_hashed_names or rewrites_imports:
        return []
    return [
        Warning(
            "WHITENOISE_KEEP_ONLY_HASHED_FILES deletes modules that dwsps.js imports: pages cannot load the client",
            hint="let a subclass of the static files storage set support_js_module_import_aggregation = True: it rewrites "
            "the imports to the names of the files that are kept",
            id="dwsps_channels.W010",
        )
    ]


@register("dwsps_channels")
def check_page_cursor(**kwargs: Any) -> list[CheckMessage]:
    """Check that ``CursorMiddleware`` has an effect, if the project uses it."""
    if CURSOR_MIDDLEWARE not in settings.MIDDLEWARE:
        return []
    with suppress(ImproperlyConfigured):
        backend = configured_backend()
        if not backend.keeps_log:
            return [
                Warning(
                    f"CursorMiddleware has no effect: the broker, {type(backend).__name__}, keeps no log",
                    hint="use a channels_redis layer, or MemoryBackend for a server of one process; or take the middleware "
                    "out of MIDDLEWARE",
                    id="dwsps_channels.W011",
                )
            ]
    return []


@register("dwsps_channels", Tags.database)
def check_peers(databases: Collection[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check that what peers miss while they are away is kept. With ``check --database …`` only: it reads the peers."""
    from dwsps_channels.models import Peer

    try:
        if not isinstance(configured_backend(), MemoryBackend):
            return []
        if (
            router.db_for_read(Peer) not in (databases or ())
            or not Peer.objects.forwarding().exists()
        ):
            return []
    except (ImproperlyConfigured, DatabaseError):
        return []  # others say so; or the tables are not there yet
    return [
        Info(
            "what a peer misses while it is away is kept in the memory of the server's process, and lost with it",
            hint="DWSPS['BROKER'] = {'BACKEND': 'dwsps_channels.broker.backends.DatabaseBackend'} keeps it in the database; "
            "several processes keep it in Redis",
            id="dwsps_channels.I002",
        )
    ]


@register("dwsps_channels", Tags.security)
def check_strangers(**kwargs: Any) -> list[CheckMessage]:
    """Check what strangers may do."""
    found: list[CheckMessage] = []
    with suppress(ImproperlyConfigured):
        if conf.policy_class is AllowAll:
            found.append(
                Warning(
                    "everybody may subscribe and publish to everything",
                    hint="set DWSPS['POLICY'] to 'dwsps_channels.policies.AuthenticatedOnly', 'ReadOnly' or 'TopicRules' of the "
                    "same module, or a class of your own; if this is intended, silence this check",
                    id="dwsps_channels.W003",
                )
            )
    with suppress(ImproperlyConfigured):
        if "*" in settings.ALLOWED_HOSTS and conf.ALLOWED_ORIGINS is None and not settings.DEBUG:
            found.append(
                Warning(
                    "ALLOWED_HOSTS has '*' and DWSPS['ALLOWED_ORIGINS'] is not set: any page whose host name leads to "
                    "this server may connect, with the cookies of its visitor",
                    hint="name the hosts in ALLOWED_HOSTS, or the origins in DWSPS['ALLOWED_ORIGINS']",
                    id="dwsps_channels.W009",
                )
            )
    return found


@register("dwsps_channels", Tags.security, deploy=True)
def check_deployment(**kwargs: Any) -> list[CheckMessage]:
    """Check for settings that are fine only on a developer's machine."""
    found: list[CheckMessage] = []
    try:
        if "*" in (conf.ALLOWED_ORIGINS or ()):
            found.append(
                Warning(
                    "any web page may connect, with the cookies of its visitor",
                    hint="name the origins in DWSPS['ALLOWED_ORIGINS'], or leave it out for the server's own",
                    id="dwsps_channels.W004",
                )
            )
    except ImproperlyConfigured:
        pass  # check_settings says it
    return found


def _unknown(keys: Iterable[object]) -> list[CheckMessage]:
    return [
        Error(f"DWSPS['{key}'] is unknown", hint=hint_for_unknown(key), id="dwsps_channels.E002")
        for key in keys
        if key not in KEYS
    ]


def _bad_values(keys: dict[str, Any]) -> list[CheckMessage]:
    return [
        Error(str(problem), hint=describe(key), id=_ID_OF_BAD_VALUE.get(key, "dwsps_channels.E003"))
        for key, problem in problems({key: keys[key] for key in keys if key in KEYS}).items()
    ]


_ID_OF_BAD_VALUE = {
    "POLICY": "dwsps_channels.E004",
    "BROKER": "dwsps_channels.E010",
    "AUTHENTICATOR": "dwsps_channels.E011",
}


def _unusable() -> list[CheckMessage]:
    """Check what values name: the policy, the authenticator and the broker."""
    found: list[CheckMessage] = []
    try:
        _ = conf.policy_class
    except ImproperlyConfigured as error:
        found.append(Error(str(error), hint=describe("POLICY"), id="dwsps_channels.E004"))
    try:
        _ = conf.authenticator
    except ImproperlyConfigured as error:
        found.append(Error(str(error), hint=describe("AUTHENTICATOR"), id="dwsps_channels.E011"))
    try:
        backend = configured_backend()
    except ImproperlyConfigured as error:
        found.append(Error(str(error), hint=describe("BROKER"), id="dwsps_channels.E010"))
    else:
        found.extend(backend.check())
        if backend.keeps_log:
            found.extend(_short_log(is_in_memory=isinstance(backend, MemoryBackend)))
        if backend.keeps_log and not isinstance(backend, MemoryBackend):
            found.extend(_small_log())
        if backend.joins_processes and not backend.keeps_log:
            found.extend(_void_grants(backend))
        if not backend.joins_processes and (reason := _several_processes()):
            found.append(
                Warning(
                    f"the server's processes cannot reach each other, but {reason} suggests that there are several: "
                    f"{backend.if_several}",
                    hint="configure a channels_redis layer as 'default' in CHANNEL_LAYERS; or run one process and set "
                    "DWSPS['BROKER'] = {'BACKEND': 'dwsps_channels.broker.backends.MemoryBackend'}",
                    id="dwsps_channels.W002",
                )
            )
    return found


def _small_log() -> list[CheckMessage]:
    """Check that the log outside of processes keeps what their memory may keep."""
    below = [
        f"DWSPS['LOG_{name}'] is below DWSPS['TAIL_{name}']"
        for name in ("MESSAGES", "BYTES", "MAX_AGE")
        if getattr(conf, f"LOG_{name}") < getattr(conf, f"TAIL_{name}")
    ]
    if not below:
        return []
    return [
        Warning(
            f"{'; '.join(below)}: a process that starts cannot load all that its memory may keep",
            hint="let the log in Redis or the database keep at least as much as a process does",
            id="dwsps_channels.W012",
        )
    ]


def _short_log(*, is_in_memory: bool) -> list[CheckMessage]:
    """Check that messages are kept until clients and peers are back after a failure that is over."""
    short = []
    if conf.TAIL_MAX_AGE < MAX_DELAY:
        short.append(
            f"DWSPS['TAIL_MAX_AGE'] is below {MAX_DELAY:g}: so many seconds may pass before a client comes back that has lost "
            "its connection, and what it missed is gone then"
        )
    away = conf.TIMINGS.LEASE_TIMEOUT + conf.TIMINGS.LINK_BACKOFF_CAP
    if not is_in_memory and away > conf.LOG_MAX_AGE:
        short.append(
            f"DWSPS['LOG_MAX_AGE'] is below {away:g}: so many seconds may pass before another worker takes over and its links "
            "are connected, and what peers missed is gone then"
        )
    hint = "keep messages for minutes at least: their number and their bytes are bounded as well"
    return [Warning(problem, hint=hint, id="dwsps_channels.W015") for problem in short]


def _void_grants(backend: BrokerBackend) -> list[CheckMessage]:
    """Check that processes can know which grants are revoked, if the project seems to make grants."""
    if "GRANT_MAX_AGE" not in configured():
        return []
    return [
        Warning(
            f"DWSPS['GRANT_MAX_AGE'] is set, but the broker, {type(backend).__name__}, keeps no log: all grants are void after "
            "each lost message, and a process that starts does not know which were revoked",
            hint="use a channels_redis layer and leave DWSPS['BROKER'] out, or use MemoryBackend for a server of one process; if "
            "the policy allows what grants allow, silence this check",
            id="dwsps_channels.W014",
        )
    ]


def _contradictions() -> list[CheckMessage]:
    """Check values that are fine by themselves, and not together."""
    found: list[CheckMessage] = []
    limits = conf.limits
    if limits.buffered_bytes < limits.message_bytes:
        found.append(
            Error(
                "DWSPS['MAX_BUFFERED_BYTES'] is below DWSPS['MAX_MESSAGE_BYTES']: one message could close a connection",
                hint="make it several times as large",
                id="dwsps_channels.E007",
            )
        )
    if limits.rate_bytes is not None and limits.burst_bytes < limits.message_bytes:
        found.append(
            Error(
                "DWSPS['RATE_BURST_BYTES'] is below DWSPS['MAX_MESSAGE_BYTES']: a message may be larger than what a "
                "client may send at once",
                hint="make it several times as large",
                id="dwsps_channels.E008",
            )
        )
    if limits.message_bytes > DAPHNE_MESSAGE_BYTES and apps.is_installed("daphne"):
        found.append(
            Warning(
                f"DWSPS['MAX_MESSAGE_BYTES'] is above {DAPHNE_MESSAGE_BYTES}, above which Daphne closes the connection",
                hint="start Daphne with a --websocket-max-message-size above it and silence this check",
                id="dwsps_channels.W001",
            )
        )
    return found


def _several_processes() -> str | None:
    """Return the environment variable that suggests a deployment of several processes."""
    if os.environ.get("WEB_CONCURRENCY", "1") not in ("", "1"):
        return "WEB_CONCURRENCY"
    # A project that names a broker has thought about it: its Redis may be for something else.
    if conf.BROKER is None and os.environ.get("REDIS_URL"):
        return "REDIS_URL"
    return None


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
