"""What is wrong with the settings, found before it hurts. docs/reference/checks.md has a line for each."""

import os
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from channels.layers import channel_layers
from django.apps import apps
from django.conf import STATICFILES_STORAGE_ALIAS, settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import storages
from django.utils.module_loading import import_string

from dwsps_channels.checks.application import CannotLoad, load, ways_of
from dwsps_channels.conf import KEYS, conf, configured
from dwsps_channels.policies import AllowAll
from dwsps_channels.server.runtime import shared_layer

# The first without CVE-2026-44545 and CVE-2026-44546.
SAFE_DAPHNE = (4, 2, 2)

ASGI_SERVERS = ("daphne", "uvicorn", "hypercorn", "granian")

# Daphne's --websocket-max-message-size, unless it is given.
DAPHNE_MESSAGE_BYTES = 1024 * 1024


@register("dwsps_channels")
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """The ``DWSPS`` setting by itself."""
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
    return [*_unknown(keys), *_bad_values(keys), *_contradictions()]


@register("dwsps_channels")
def check_daphne(**kwargs: Any) -> list[CheckMessage]:
    """Daphne, where the project uses it."""
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
    """Whether there is a server that can serve websockets."""
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
    """Whether websockets get to the consumer, and with a user if the policy needs one."""
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
        policy = conf.POLICY
        if getattr(policy, "needs_user", False) and not ways.has_user:
            return [
                Warning(
                    f"the policy {policy.__name__} needs to know users, and no middleware on the way to "
                    "PubSubConsumer looks them up: it will refuse everybody",
                    hint="wrap the websocket routes in AuthMiddlewareStack of dwsps_channels.auth",
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
            hint="a subclass of the static files storage with support_js_module_import_aggregation = True imports the "
            "files that are kept",
            id="dwsps_channels.W010",
        )
    ]


@register("dwsps_channels", Tags.security)
def check_strangers(**kwargs: Any) -> list[CheckMessage]:
    """Check what strangers may do."""
    found: list[CheckMessage] = []
    with suppress(ImproperlyConfigured):
        if conf.POLICY is AllowAll:
            found.append(
                Warning(
                    "everybody may subscribe and publish to everything",
                    hint="set DWSPS['POLICY'] to 'dwsps_channels.policies.AuthenticatedOnly', 'ReadOnly' of the same "
                    "module, or a class of your own; if it is meant so, silence this check",
                    id="dwsps_channels.W003",
                )
            )
    with suppress(ImproperlyConfigured):
        if "*" in settings.ALLOWED_HOSTS and conf.ALLOWED_ORIGINS is None and not settings.DEBUG:
            found.append(
                Warning(
                    "ALLOWED_HOSTS has '*' and DWSPS['ALLOWED_ORIGINS'] is not set: a web page may connect, with the "
                    "cookies of whoever looks at it, from any name that leads to this server",
                    hint="name the hosts in ALLOWED_HOSTS, or the origins in DWSPS['ALLOWED_ORIGINS']",
                    id="dwsps_channels.W009",
                )
            )
    return found


@register("dwsps_channels", Tags.security, deploy=True)
def check_deployment(**kwargs: Any) -> list[CheckMessage]:
    """What is fine on a developer's machine only."""
    found: list[CheckMessage] = []
    try:
        if "*" in (conf.ALLOWED_ORIGINS or ()):
            found.append(
                Warning(
                    "any web page may connect, with the cookies of whoever looks at it",
                    hint="name the origins in DWSPS['ALLOWED_ORIGINS'], or leave it out for the server's own",
                    id="dwsps_channels.W004",
                )
            )
    except ImproperlyConfigured:
        pass  # check_settings says it
    return found


def _unknown(keys: Iterable[str]) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for key in keys:
        if key not in KEYS:
            close = get_close_matches(str(key).upper(), KEYS, 1)
            hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(KEYS)}"
            found.append(Error(f"DWSPS['{key}'] is unknown", hint=hint, id="dwsps_channels.E002"))
    return found


def _bad_values(keys: Iterable[str]) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for key in keys:
        if key in KEYS:
            try:
                getattr(conf, key)
            except ImproperlyConfigured as error:
                id = "dwsps_channels.E004" if key == "POLICY" else "dwsps_channels.E003"
                found.append(Error(str(error), hint=getattr(type(conf), key).__doc__, id=id))
    return found


def _contradictions() -> list[CheckMessage]:
    """Values that are fine by themselves, and not together, or not with the rest of the project."""
    found: list[CheckMessage] = []
    try:
        limits = conf.limits
        alias = conf.CHANNEL_LAYER if "CHANNEL_LAYER" in configured() else None
        if alias is not None and alias not in channel_layers.configs:
            found.append(
                Error(
                    f"DWSPS['CHANNEL_LAYER'] is '{alias}', which is not in CHANNEL_LAYERS",
                    hint="name one of CHANNEL_LAYERS, or None if the server is one process",
                    id="dwsps_channels.E006",
                )
            )
        if limits.buffered_bytes < limits.message_bytes:
            found.append(
                Error(
                    "DWSPS['MAX_BUFFERED_BYTES'] is below DWSPS['MAX_MESSAGE_BYTES']: one message could close a "
                    "connection",
                    hint="make it several times as large",
                    id="dwsps_channels.E007",
                )
            )
        if limits.rate_bytes is not None and limits.burst_bytes < limits.message_bytes:
            found.append(
                Error(
                    "DWSPS['RATE_BURST_BYTES'] is below DWSPS['MAX_MESSAGE_BYTES']: a message may be larger than what "
                    "a client may send at once",
                    hint="make it several times as large",
                    id="dwsps_channels.E008",
                )
            )
        if limits.message_bytes > DAPHNE_MESSAGE_BYTES and apps.is_installed("daphne"):
            found.append(
                Warning(
                    f"DWSPS['MAX_MESSAGE_BYTES'] is above {DAPHNE_MESSAGE_BYTES}, where Daphne closes the connection",
                    hint="start Daphne with a --websocket-max-message-size above it and silence this check",
                    id="dwsps_channels.W001",
                )
            )
        found.extend(_broken_layer())
        if shared_layer() is None and (reason := _several_processes()):
            found.append(
                Warning(
                    f"the server's processes cannot reach each other, and {reason} looks as if there were several",
                    hint="configure a channels_redis layer in CHANNEL_LAYERS; or DWSPS['CHANNEL_LAYER'] = None and "
                    "one process",
                    id="dwsps_channels.W002",
                )
            )
    except ImproperlyConfigured:
        pass  # said already, key by key
    return found


def _broken_layer() -> list[CheckMessage]:
    """The channel layer that joins the server's processes, if it cannot be imported."""
    alias = shared_layer()
    if alias is None:
        return []
    backend = str(channel_layers.configs[alias].get("BACKEND"))
    try:
        import_string(backend)
    except Exception as error:
        package = backend.partition(".")[0]
        hint = f"correct its BACKEND, or install the package that has '{package}'"
        if package == "channels_redis":
            hint = "pip install channels_redis"
        problem = f"CHANNEL_LAYERS['{alias}'] cannot be used: {error}"
        return [Error(problem, hint=hint, id="dwsps_channels.E009")]
    return []


def _several_processes() -> str | None:
    """What in the environment tells of a deployment of several processes."""
    if os.environ.get("WEB_CONCURRENCY", "1") not in ("", "1"):
        return "WEB_CONCURRENCY"
    # Not so where the project says that the server is one process.
    if configured().get("CHANNEL_LAYER", "default") is not None and os.environ.get("REDIS_URL"):
        return "REDIS_URL"
    return None


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
