"""``manage.py check``: each id by the setting that earns it, and a hint with each."""

import logging
import re
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from channels.auth import AuthMiddlewareStack
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from channels.sessions import SessionMiddlewareStack
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.contrib.staticfiles.storage import StaticFilesStorage
from django.core.checks import ERROR, INFO, WARNING, CheckMessage, run_checks
from django.core.files.storage import Storage
from django.core.handlers.asgi import ASGIHandler
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings
from django.urls import path
from whitenoise.storage import CompressedManifestStaticFilesStorage

from dwsps_channels import policies
from dwsps_channels.auth import AuthMiddlewareStack as OurAuthMiddlewareStack
from dwsps_channels.broker import backends
from dwsps_channels.checks import settings as checks
from dwsps_channels.conf import KEYS
from dwsps_channels.consumers import PubSubConsumer
from dwsps_channels.models import Peer
from dwsps_channels.routing import URLRouter as OurURLRouter
from dwsps_channels.routing import websocket_urlpatterns

ROOT = Path(__file__).resolve().parents[2]
CHANNEL_LAYER = "dwsps_channels.broker.backends.ChannelLayerBackend"
DATABASE = "dwsps_channels.broker.backends.DatabaseBackend"
MEMORY = {"BACKEND": "dwsps_channels.broker.backends.MemoryBackend"}

IDS = sorted(
    {
        id
        for path in (ROOT / "dwsps_channels").rglob("*.py")
        for id in re.findall(r"dwsps_channels\.[EIW]\d{3}", path.read_text())
    }
)
# The keys whose bad values have an id of their own.
OWN_IDS = ("POLICY", "AUTHENTICATOR", "BROKER")
LEVELS = {"E": ERROR, "W": WARNING, "I": INFO}
SHARED = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": ["redis://h"]},
    }
}


def found(*, deploy: bool = False, **settings: Any) -> list[CheckMessage]:
    """Return the messages of our checks under ``settings``."""
    with override_settings(**settings):
        # No database, as 'manage.py check' without a tag: with one, Django 6.1 takes them all.
        messages = run_checks(
            tags=["dwsps_channels"], include_deployment_checks=deploy, databases=[]
        )
    for message in messages:
        assert message.hint, message
        assert message.level == LEVELS[str(message.id)[-4]]
    return list(messages)


def ids(*, deploy: bool = False, **settings: Any) -> list[str]:
    """The same by their ids, without the one of the default policy."""
    found_ids = [
        str(each.id).removeprefix("dwsps_channels.") for each in found(deploy=deploy, **settings)
    ]
    return [id for id in found_ids if id != "W003"]


def found_only(id: str, **settings: Any) -> CheckMessage:
    """The one message that there is beside that of the default policy."""
    [message] = [each for each in found(**settings) if each.id != "dwsps_channels.W003"]
    assert message.id == f"dwsps_channels.{id}"
    return message


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment tells of several."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)


class TestSettings:
    def test_nothing_is_wrong_with_the_defaults(self) -> None:
        assert ids(DWSPS={}) == []

    @pytest.mark.parametrize("value", [None, [], "POLICY"])
    def test_E001_the_setting_is_no_dict(self, value: Any) -> None:
        assert ids(DWSPS=value) == ["E001"]

    @pytest.mark.parametrize(
        ("key", "hint"),
        [
            ("POLICIES", "did you mean 'POLICY'?"),
            ("allowed_origins", "did you mean 'ALLOWED_ORIGINS'?"),
            ("colour", f"known are {', '.join(KEYS)}"),
            ("_", f"known are {', '.join(KEYS)}"),
            (1, f"known are {', '.join(KEYS)}"),
        ],
    )
    def test_E002_a_key_is_unknown(self, key: Any, hint: str) -> None:
        message = found_only("E002", DWSPS={key: 1})
        assert message.hint == hint
        assert str(key) in message.msg

    @pytest.mark.parametrize("key", [key for key in KEYS if key not in OWN_IDS])
    def test_E003_a_value_is_bad(self, key: str) -> None:
        message = found_only("E003", DWSPS={key: ["bad"]})
        assert f"DWSPS['{key}']" in message.msg

    @pytest.mark.parametrize(
        "path", ["no.such.Policy", "dwsps_channels.conf.Settings", ".policies.Mine", 1]
    )
    def test_E004_the_policy_cannot_be_used(self, path: Any) -> None:
        assert ids(DWSPS={"POLICY": path}) == ["E004"]

    @pytest.mark.parametrize(
        "path", ["no.such.function", "tests.tokens.authenticators.one_argument", ".tokens.Mine", 1]
    )
    def test_E011_the_authenticator_cannot_be_used(self, path: Any) -> None:
        assert ids(DWSPS={"AUTHENTICATOR": path}) == ["E011"]

    def test_the_authenticator_of_the_package_is_fine(self) -> None:
        assert ids(DWSPS={"AUTHENTICATOR": "dwsps_channels.tokens.SignedToken"}) == []

    def test_all_that_is_wrong_is_said_at_once(self) -> None:
        wrong = {"POLICIES": 1, "SERVER_NAME": "", "MAX_MESSAGE_BYTES": 0, "POLICY": 1}
        assert sorted(ids(DWSPS=wrong)) == ["E002", "E003", "E003", "E004"]

    def test_E006_the_channel_layer_is_not_configured(self) -> None:
        elsewhere = {"BACKEND": CHANNEL_LAYER, "OPTIONS": {"LAYER": "elsewhere"}}
        assert ids(DWSPS={"BROKER": elsewhere}) == ["E006"]
        assert ids(DWSPS={"BROKER": {"BACKEND": CHANNEL_LAYER}}, CHANNEL_LAYERS={}) == ["E006"]

    @pytest.mark.parametrize(
        "broker",
        [
            {"BACKEND": "no.such.Backend"},
            {"BACKEND": ".relative.Backend"},
            {"BACKEND": "dwsps_channels.conf.Settings"},
            {"BACKEND": CHANNEL_LAYER, "OPTIONS": {"layer": "default"}},
            {"BACKEND": CHANNEL_LAYER, "OPTIONS": {"LAYER": 1}},
            {"BACKEND": MEMORY["BACKEND"], "OPTIONS": {"LAYER": "default"}},
            {"BACKEND": MEMORY["BACKEND"], "OPTION": {}},
            "dwsps_channels.broker.backends.MemoryBackend",
        ],
    )
    def test_E010_the_broker_cannot_be_used(self, broker: Any) -> None:
        message = found_only("E010", DWSPS={"BROKER": broker})
        assert "DWSPS['BROKER']" in message.msg

    def test_a_project_needs_no_channel_layer(self) -> None:
        assert ids(DWSPS={}, CHANNEL_LAYERS={}) == []
        assert ids(DWSPS={"BROKER": MEMORY}, CHANNEL_LAYERS={}) == []

    def test_E007_one_message_fills_the_buffer(self) -> None:
        assert ids(DWSPS={"MAX_BUFFERED_BYTES": 64 * 1024 - 1}) == ["E007"]
        assert ids(DWSPS={"MAX_BUFFERED_BYTES": 64 * 1024}) == []

    def test_E008_a_message_is_larger_than_what_may_be_sent_at_once(self) -> None:
        assert ids(DWSPS={"RATE_LIMIT_BYTES": 1000, "RATE_BURST_BYTES": 64 * 1024 - 1}) == ["E008"]
        assert ids(DWSPS={"RATE_LIMIT_BYTES": 1000, "RATE_BURST_BYTES": 64 * 1024}) == []
        assert ids(DWSPS={"RATE_BURST_BYTES": 1}) == []

    def test_W001_a_message_may_be_larger_than_daphne_takes(self) -> None:
        larger = {"MAX_MESSAGE_BYTES": 2 * 1024 * 1024, "MAX_BUFFERED_BYTES": 8 * 1024 * 1024}
        assert ids(DWSPS=larger) == ["W001"]
        assert ids(DWSPS=larger, INSTALLED_APPS=["channels", "dwsps_channels"]) == []

    @pytest.mark.django_db  # a check of Django's asks what the database can do
    def test_the_errors_stop_a_command(self) -> None:
        with (
            override_settings(DWSPS={"MAX_MESAGE_BYTES": 1}),
            pytest.raises(SystemCheckError, match="E002"),
        ):
            call_command("check", stderr=StringIO())


class TestDaphne:
    @pytest.mark.parametrize("installed", ["4.2.1", "4.2", "4.1.9", "3.0.2", "4.2.2rc1"])
    def test_E005_it_has_known_vulnerabilities(
        self, installed: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checks, "version", {"daphne": installed}.__getitem__)
        message = found_only("E005", DWSPS={})
        assert installed in message.msg

    @pytest.mark.parametrize("installed", ["4.2.2", "4.2.10", "4.3", "5.0.0b1", "5.0"])
    def test_a_later_one_has_not(self, installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "version", {"daphne": installed}.__getitem__)
        assert ids(DWSPS={}) == []

    def test_a_project_that_does_not_use_it_may_have_any(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checks, "version", {"daphne": "3.0"}.__getitem__)
        assert ids(DWSPS={}, INSTALLED_APPS=["channels", "dwsps_channels"]) == []

    def test_one_that_was_not_installed_as_a_package_is_not_judged(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def version(name: str) -> str:
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(checks, "version", version)
        assert ids(DWSPS={}) == []


class TestSeveralProcesses:
    @pytest.mark.parametrize(
        ("name", "value"), [("REDIS_URL", "redis://localhost"), ("WEB_CONCURRENCY", "4")]
    )
    def test_W002_they_cannot_reach_each_other(
        self, name: str, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, value)
        for layers in ({}, {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}):
            message = found_only("W002", DWSPS={}, CHANNEL_LAYERS=layers)
            assert name in message.msg
        assert ids(DWSPS={}, CHANNEL_LAYERS=SHARED) == []

    def test_a_redis_for_something_else_is_none_of_ours(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REDIS_URL", "redis://localhost")
        assert ids(DWSPS={"BROKER": MEMORY}) == []

    def test_several_workers_cannot_be_one_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WEB_CONCURRENCY", "2")
        assert ids(DWSPS={"BROKER": MEMORY}) == ["W002"]

    def test_several_workers_cannot_share_the_log_in_the_database(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WEB_CONCURRENCY", "2")
        message = found_only("W002", DWSPS={"BROKER": {"BACKEND": DATABASE}})
        assert "the others refuse all clients" in message.msg

    @pytest.mark.parametrize("value", ["", "1"])
    def test_one_worker_is_one(self, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WEB_CONCURRENCY", value)
        assert ids(DWSPS={}) == []


def serving(application: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The dotted path of ``application``, for ``ASGI_APPLICATION``."""
    module = ModuleType("an_asgi_module")
    module.application = application  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "an_asgi_module", module)
    return "an_asgi_module.application"


def router(*routes: Any, wrap: Callable[[Any], Any] = lambda app: app) -> Any:
    return ProtocolTypeRouter({"http": ASGIHandler(), "websocket": wrap(URLRouter(list(routes)))})


class Other(AsyncWebsocketConsumer):
    pass


class Mine(PubSubConsumer):
    pass


def route(application: Any) -> Any:
    return path("ws/", application)


OURS: Any = PubSubConsumer.as_asgi()


def unknown(inner: Any) -> Any:
    """Middleware as a plain function."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)

    return call


def entwined(inner: Any) -> Any:
    """Functions of which each knows all of them."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        await (help_out if receive else inner)(scope, receive, send)
        await call(scope, receive, send)

    async def help_out(scope: Any, receive: Any, send: Any) -> None:
        await (call if receive else help_out)(scope, receive, send)

    return call


class TestApplication:
    @pytest.mark.parametrize(
        "application",
        [
            router(),
            router(route(Other.as_asgi())),
            ProtocolTypeRouter({"http": ASGIHandler()}),
            ASGIStaticFilesHandler(ASGIHandler()),
            ASGIHandler(),
            router(wrap=OurAuthMiddlewareStack),
        ],
        ids=[
            "no route",
            "another's",
            "http alone",
            "with static files",
            "Django's own",
            "no route inside",
        ],
    )
    def test_W005_no_websocket_route_leads_to_the_consumer(
        self, application: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert ids(DWSPS={}, ASGI_APPLICATION=serving(application, monkeypatch)) == ["W005"]

    @pytest.mark.parametrize(
        "application",
        [
            router(*websocket_urlpatterns),
            OurURLRouter(websocket_urlpatterns),
            router(route(Other.as_asgi()), route(Mine.as_asgi()), wrap=AuthMiddlewareStack),
            router(route(URLRouter(websocket_urlpatterns)), wrap=AllowedHostsOriginValidator),
            ASGIStaticFilesHandler(router(*websocket_urlpatterns)),
            unknown(router(*websocket_urlpatterns)),
            partial(unknown(OURS)),
            router(wrap=unknown),
            entwined(router(*websocket_urlpatterns)),
            router(route(lambda scope, receive, send: None)),
        ],
        ids=[
            "ours",
            "our router",
            "a subclass",
            "nested",
            "static files",
            "wrapped",
            "partial",
            "hidden",
            "entwined",
            "opaque",
        ],
    )
    def test_it_leads_there_or_may(self, application: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        assert ids(DWSPS={}, ASGI_APPLICATION=serving(application, monkeypatch)) == []

    @pytest.mark.parametrize(
        ("path", "problem"),
        [
            (None, "ASGI_APPLICATION is not set"),
            ("no_such.module.application", "ModuleNotFoundError: No module named 'no_such'"),
            ("project.asgi.nothing", "AttributeError"),
            ("application", "ValueError"),
            ("tests.broken_asgi.application", "RuntimeError: the database is away"),
        ],
    )
    def test_W006_the_application_cannot_be_loaded(self, path: str | None, problem: str) -> None:
        assert problem in found_only("W006", DWSPS={}, ASGI_APPLICATION=path).msg

    def test_loading_it_silences_no_logger(self, monkeypatch: pytest.MonkeyPatch) -> None:
        in_use = logging.getLogger("tests.in_use")
        monkeypatch.delitem(sys.modules, "project.asgi", raising=False)
        assert ids(DWSPS={}, LOGGING={"version": 1}) == []
        assert "project.asgi" in sys.modules
        assert not in_use.disabled

    def test_W007_no_server_is_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "find_spec", {}.get)
        assert ids(DWSPS={}) == ["W007"]
        monkeypatch.setattr(checks, "find_spec", {"uvicorn": "a spec"}.get)
        assert ids(DWSPS={}) == []

    @pytest.mark.parametrize(
        ("wrap", "expected"),
        [
            (lambda app: app, ["W008"]),
            (SessionMiddlewareStack, ["W008"]),
            (AllowedHostsOriginValidator, ["W008"]),
            (AuthMiddlewareStack, []),
            (OurAuthMiddlewareStack, []),
            (lambda app: AllowedHostsOriginValidator(AuthMiddlewareStack(app)), []),
            (unknown, []),
        ],
        ids=["nothing", "sessions", "origins", "Channels'", "ours", "both", "a project's own"],
    )
    def test_W008_the_policy_needs_users_that_nobody_looks_up(
        self, wrap: Any, expected: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = serving(router(*websocket_urlpatterns, wrap=wrap), monkeypatch)
        for policy in (
            "dwsps_channels.policies.AuthenticatedOnly",
            "tests.checks.test_settings.MembersOnly",
        ):
            assert ids(DWSPS={"POLICY": policy}, ASGI_APPLICATION=path) == expected
            # Users may come with tokens instead.
            tokens = {"AUTHENTICATOR": "dwsps_channels.tokens.SignedToken"}
            assert ids(DWSPS={"POLICY": policy} | tokens, ASGI_APPLICATION=path) == []
        policy = "dwsps_channels.policies.ReadOnly"
        assert ids(DWSPS={"POLICY": policy}, ASGI_APPLICATION=path) == []


class MembersOnly(policies.ReadOnly):
    needs_user = True


class TestChannelLayer:
    @pytest.mark.parametrize(
        ("backend", "hint"),
        [
            ("channels_redis.nowhere.Layer", "pip install channels_redis"),
            ("no_such_package.Layer", "install the package that has 'no_such_package'"),
            ("Layer", "correct its BACKEND"),
            (None, "correct its BACKEND"),
        ],
    )
    def test_E009_it_cannot_be_imported(self, backend: str | None, hint: str) -> None:
        layers = {"default": {"BACKEND": backend}}
        message = found_only("E009", DWSPS={}, CHANNEL_LAYERS=layers)
        assert hint in str(message.hint)
        assert ids(DWSPS={"BROKER": MEMORY}, CHANNEL_LAYERS=layers) == []


class RewritesImports(CompressedManifestStaticFilesStorage):  # type: ignore[misc]  # whitenoise has no types
    support_js_module_import_aggregation = True


class TestStaticFiles:
    def ids_with(self, storage: type[Storage] | str, **settings: Any) -> list[str]:
        dotted = storage if isinstance(storage, str) else f"{storage.__module__}.{storage.__name__}"
        return ids(DWSPS={}, STORAGES={"staticfiles": {"BACKEND": dotted}}, **settings)

    def test_W010_the_modules_of_the_client_are_deleted(self, tmp_path: Path) -> None:
        kept = {"STATIC_ROOT": tmp_path, "WHITENOISE_KEEP_ONLY_HASHED_FILES": True}
        assert self.ids_with(CompressedManifestStaticFilesStorage, **kept) == ["W010"]
        assert self.ids_with(RewritesImports, **kept) == []
        assert self.ids_with(StaticFilesStorage, **kept) == []
        assert self.ids_with(CompressedManifestStaticFilesStorage, STATIC_ROOT=tmp_path) == []

    def test_a_storage_that_cannot_be_made_is_left_to_django(self) -> None:
        assert self.ids_with("no.such.Storage") == []


class TestHistory:
    def test_I001_the_broker_keeps_none(self) -> None:
        layers = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
        broker = {"BROKER": {"BACKEND": CHANNEL_LAYER}}
        assert ids(DWSPS=broker, CHANNEL_LAYERS=layers) == ["I001"]
        assert ids(DWSPS={}, CHANNEL_LAYERS=layers) == []


class TestLog:
    @pytest.mark.parametrize("key", ["MESSAGES", "BYTES", "MAX_AGE"])
    def test_W012_it_keeps_less_than_a_process(self, key: str) -> None:
        named = {"BROKER": {"BACKEND": DATABASE}, f"LOG_{key}": 200, f"TAIL_{key}": 300}
        message = found_only("W012", DWSPS=named)
        assert f"LOG_{key}" in message.msg
        assert ids(DWSPS=named | {f"LOG_{key}": 300}) == []
        # In memory there is only one bound.
        assert ids(DWSPS=named | {"BROKER": MEMORY}) == []

    @pytest.mark.parametrize("broker", [MEMORY, {"BACKEND": DATABASE}])
    def test_W015_a_client_that_comes_back_has_missed_what_is_gone(
        self, broker: dict[str, str]
    ) -> None:
        message = found_only("W015", DWSPS={"BROKER": broker, "TAIL_MAX_AGE": 19.9})
        assert message.msg.startswith("DWSPS['TAIL_MAX_AGE'] is below 20:")
        assert ids(DWSPS={"BROKER": broker, "TAIL_MAX_AGE": 20.0}) == []

    def test_W015_so_has_a_peer_after_a_worker_was_killed(self) -> None:
        named = {"BROKER": {"BACKEND": DATABASE}, "LOG_MAX_AGE": 30.0, "TAIL_MAX_AGE": 30.0}
        message = found_only("W015", DWSPS=named)
        assert message.msg.startswith("DWSPS['LOG_MAX_AGE'] is below 36:")
        assert ids(DWSPS=named | {"TIMINGS": {"LINK_BACKOFF_CAP": 24.0}}) == []
        # In memory the log is the tail.
        assert ids(DWSPS=named | {"BROKER": MEMORY}) == []

    def test_W014_a_channel_layer_does_not_keep_what_was_revoked(self) -> None:
        named = {"BROKER": {"BACKEND": CHANNEL_LAYER}, "GRANT_MAX_AGE": 600}
        layers = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
        assert ids(DWSPS=named, CHANNEL_LAYERS=layers) == ["I001", "W014"]
        assert ids(DWSPS={"GRANT_MAX_AGE": 600}, CHANNEL_LAYERS=SHARED) == []

    def test_a_project_that_sets_nothing_for_grants_hears_nothing_of_them(self) -> None:
        layers = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
        assert ids(DWSPS={"BROKER": {"BACKEND": CHANNEL_LAYER}}, CHANNEL_LAYERS=layers) == ["I001"]

    def test_E009_the_database_is_not_configured(self) -> None:
        elsewhere = {"BACKEND": DATABASE, "OPTIONS": {"USING": "elsewhere"}}
        assert "'elsewhere'" in found_only("E009", DWSPS={"BROKER": elsewhere}).msg

    @pytest.mark.parametrize("name", [":memory:", "file:log?mode=memory&cache=shared"])
    def test_E009_the_database_is_in_memory(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Django's test runner takes one, for a test that has the broker in memory.
        database = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": name}}
        named = {"BROKER": {"BACKEND": DATABASE}}
        assert ids(DWSPS=named) == []  # whose transaction_mode is IMMEDIATE
        monkeypatch.setattr(backends, "is_under_test", lambda: False)
        monkeypatch.setattr("django.conf.settings.DATABASES", database)
        assert "in memory" in found_only("E009", DWSPS=named).msg

    @pytest.mark.parametrize("mode", [None, "DEFERRED"])
    @pytest.mark.parametrize(
        "backend", ["db.backends.sqlite3", "contrib.gis.db.backends.spatialite"]
    )
    def test_I003_transactions_on_sqlite_do_not_wait(
        self, backend: str, mode: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        database = {"ENGINE": f"django.{backend}", "NAME": "log.sqlite3"}
        options = {} if mode is None else {"OPTIONS": {"transaction_mode": mode}}
        monkeypatch.setattr("django.conf.settings.DATABASES", {"default": database | options})
        named = {"BROKER": {"BACKEND": DATABASE}}
        assert "transaction_mode" in str(found_only("I003", DWSPS=named).hint)
        immediate = database | {"OPTIONS": {"transaction_mode": "immediate"}}
        monkeypatch.setattr("django.conf.settings.DATABASES", {"default": immediate})
        assert ids(DWSPS=named) == []

    @pytest.mark.django_db
    def test_I002_what_peers_miss_is_in_memory(self) -> None:
        def infos(broker: Any, databases: list[str]) -> list[str]:
            with override_settings(DWSPS={"BROKER": broker}):
                messages = run_checks(tags=["dwsps_channels"], databases=databases)
            return [str(each.id) for each in messages if each.level == INFO]

        assert infos(MEMORY, ["default"]) == []
        Peer.objects.create(name="south", url="ws://south.example/")
        assert infos(MEMORY, ["default"]) == ["dwsps_channels.I002"]
        assert infos(MEMORY, []) == []
        assert infos({"BACKEND": DATABASE}, ["default"]) == []


class TestPageCursor:
    middleware = ("dwsps_channels.middleware.CursorMiddleware",)

    def test_W011_there_is_no_log(self) -> None:
        settings: dict[str, Any] = {
            "DWSPS": {"BROKER": {"BACKEND": CHANNEL_LAYER}},
            "CHANNEL_LAYERS": {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
        }
        assert ids(**settings) == ["I001"]
        # Django runs the checks in no certain order.
        assert sorted(ids(**settings, MIDDLEWARE=self.middleware)) == ["I001", "W011"]
        assert ids(DWSPS={}, MIDDLEWARE=self.middleware) == []


class TestStrangers:
    def test_W003_everybody_may_do_everything(self) -> None:
        [message] = found(DWSPS={})
        assert message.id == "dwsps_channels.W003"
        assert found(DWSPS={"POLICY": "dwsps_channels.policies.AuthenticatedOnly"}) == []

    def test_W009_every_name_is_the_server_s_own(self) -> None:
        assert ids(DWSPS={}, ALLOWED_HOSTS=["*"]) == ["W009"]
        assert ids(DWSPS={}, ALLOWED_HOSTS=["*"], DEBUG=True) == []
        assert ids(DWSPS={}, ALLOWED_HOSTS=["a.b", ".b.c"]) == []
        own = {"ALLOWED_ORIGINS": ["https://a.b"]}
        assert ids(DWSPS=own, ALLOWED_HOSTS=["*"]) == []


class TestDeployment:
    def test_W004_every_page_may_connect(self) -> None:
        policy = "dwsps_channels.policies.ReadOnly"
        assert ids(deploy=True, DWSPS={"POLICY": policy, "ALLOWED_ORIGINS": ["*"]}) == ["W004"]
        assert ids(deploy=True, DWSPS={"POLICY": policy, "ALLOWED_ORIGINS": ["https://a.b"]}) == []

    def test_neither_is_said_to_a_developer(self) -> None:
        assert ids(DWSPS={"ALLOWED_ORIGINS": ["*"]}) == []

    def test_no_hint_has_a_package_of_our_name_from_an_index(self) -> None:
        """It is on none, so that somebody else could put one there."""
        sources = [
            *(ROOT / "dwsps_channels").rglob("*.py"),
            *(ROOT / "docs").rglob("*.md"),
            ROOT / "README.md",
        ]
        said = [
            line
            for file in sources
            for line in file.read_text().splitlines()
            if "pip install" in line
        ]
        assert said
        assert [line for line in said if re.search(r"pip install [^/$]*dwsps", line)] == []

    def test_bad_values_are_said_once(self) -> None:
        assert ids(deploy=True, DWSPS={"POLICY": "no.such.Policy"}) == ["E004"]
        assert ids(deploy=True, DWSPS=None) == ["E001"]


class TestDocs:
    def test_every_id_has_a_test_here(self) -> None:
        here = "".join(each.read_text() for each in Path(__file__).parent.glob("test_*.py"))
        assert IDS
        assert [id for id in IDS if f"def test_{id[-4:]}_" not in here] == []

    @pytest.mark.parametrize("id", IDS)
    def test_every_id_is_explained(self, id: str) -> None:
        assert id in (ROOT / "docs" / "reference" / "checks.md").read_text()

    def test_no_other_id_is(self) -> None:
        text = (ROOT / "docs" / "reference" / "checks.md").read_text()
        assert sorted(set(re.findall(r"dwsps_channels\.[EIW]\d{3}", text))) == IDS

    @pytest.mark.parametrize("key", KEYS)
    def test_every_key_is_explained(self, key: str) -> None:
        assert f"`{key}`" in (ROOT / "docs" / "reference" / "settings.md").read_text()
