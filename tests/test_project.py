"""The demo project as its user starts it: its environment, and what it serves with DEBUG off."""

import asyncio
import http.client
import json
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from typing import Any
from urllib.parse import urlencode

import pytest
from django.core.exceptions import ImproperlyConfigured
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from project import environment
from tests.processes import (
    FORKS,
    HOST,
    ROOT,
    Server,
    ServerFactory,
    base_environment,
    free_port,
    wait_until,
)
from tests.wire.client import connected

DEMO = {"DJANGO_SETTINGS_MODULE": "project.settings"}

# The environment


def settings(*names: str, cwd: Path = ROOT, **env: str) -> dict[str, Any]:
    """Give what these settings are in a process with this environment."""
    program = (
        "import json, sys; from project import settings;"
        "print(json.dumps({name: getattr(settings, name) for name in sys.argv[1:]}, default=str))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *names],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "SECRET_KEY": "x" * 50} | env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    values: dict[str, Any] = json.loads(done.stdout)
    return values


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which nobody has run anything."""
    for name in ("manage.py", "project", "dwsps_channels"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    return tmp_path


def in_checkout(folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python there without a setting but those given."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={"PATH": os.environ["PATH"]} | env,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.processes
def test_a_secret_key_is_made_while_debugging_and_required_without_one(checkout: Path) -> None:
    done = in_checkout(checkout, "-m", "daphne", "-p", "0", "project.asgi:application")
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert "ImproperlyConfigured: SECRET_KEY is not set: set it to a long random string" in last

    done = in_checkout(checkout, "manage.py", "peers", "list")
    assert done.returncode == 1
    assert done.stderr.startswith("manage.py: SECRET_KEY is not set: set it")
    assert len(done.stderr.splitlines()) == 1

    assert in_checkout(checkout, "manage.py", "migrate", DEBUG="1").returncode == 0
    done = in_checkout(checkout, "manage.py", "peers", "list")
    assert done.returncode == 0
    assert "no peers yet: add one with" in done.stderr


@pytest.mark.processes
def test_defaults_are_those_of_one_closed_process(tmp_path: Path) -> None:
    default = settings(
        "DEBUG", "ALLOWED_HOSTS", "DATABASES", "CHANNEL_LAYERS", "DWSPS", cwd=tmp_path
    )
    assert default["DEBUG"] is False
    assert default["ALLOWED_HOSTS"] == [".localhost", "127.0.0.1", "[::1]"]
    assert default["DATABASES"]["default"]["NAME"] == str(ROOT / "db.sqlite3")
    backend = default["CHANNEL_LAYERS"]["default"]["BACKEND"]
    assert backend == "channels.layers.InMemoryChannelLayer"
    assert default["DWSPS"] == {
        "BROKER": {"BACKEND": "dwsps_channels.broker.backends.DatabaseBackend"}
    }


@pytest.mark.processes
def test_settings_come_from_the_environment() -> None:
    given = settings(
        *("DEBUG", "SECRET_KEY", "ALLOWED_HOSTS", "DATABASES", "CHANNEL_LAYERS", "DWSPS"),
        DEBUG="yes",
        SECRET_KEY="mine",
        ALLOWED_HOSTS="example.org, www.example.org,",
        DATABASE_URL="postgres://user:secret@db.example.org:5433/news",
        REDIS_URL="redis://redis.example.org:6380/1",
        DWSPS_SERVER_NAME="north",
        DWSPS_SERVER_URL="wss://north.example.org/",
        DWSPS_ALLOWED_ORIGINS="https://example.org,https://example.org:8443",
        DWSPS_POLICY="dwsps_channels.policies.ReadOnly",
    )
    assert given["DEBUG"] is True
    assert given["SECRET_KEY"] == "mine"
    assert given["ALLOWED_HOSTS"] == ["example.org", "www.example.org"]
    database = given["DATABASES"]["default"]
    assert (database["ENGINE"], database["NAME"]) == ("django.db.backends.postgresql", "news")
    assert database.get("OPTIONS", {}) == {}
    layer = given["CHANNEL_LAYERS"]["default"]
    assert layer["BACKEND"] == "channels_redis.core.RedisChannelLayer"
    assert layer["CONFIG"]["hosts"] == ["redis://redis.example.org:6380/1"]
    assert given["DWSPS"] == {
        "SERVER_NAME": "north",
        "SERVER_URL": "wss://north.example.org/",
        "ALLOWED_ORIGINS": ["https://example.org", "https://example.org:8443"],
        "POLICY": "dwsps_channels.policies.ReadOnly",
    }


SECURE = {
    "SECRET_KEY": "a-long-random-string-of-many-characters-0123456789-abcdefghijklmnopqrstuvwxyz",
    "ALLOWED_HOSTS": "example.org",
    "HTTPS_ONLY": "1",
    "HSTS_SECONDS": "31536000",
    "HSTS_INCLUDE_SUBDOMAINS": "1",
    "HSTS_PRELOAD": "1",
    "TRUST_FORWARDED_PROTO": "1",
}


@pytest.mark.processes
def test_check_for_deployment_is_content_with_a_secure_environment(tmp_path: Path) -> None:
    env = base_environment(tmp_path / "db.sqlite3") | DEMO

    def ids(**more: str) -> set[str]:
        done = FORKS.run("check", "--deploy", "--tag", "security", env=env | more)
        assert done.returncode == 0, done.stderr
        return set(re.findall(r"\((security\.W\d+)\)", done.stderr))

    assert ids(**SECURE) == set()
    assert {"security.W004", "security.W012", "security.W016"} <= ids()


@pytest.mark.processes
def test_that_everybody_may_do_everything_is_warned_of_unless_it_is_meant(tmp_path: Path) -> None:
    env = base_environment(tmp_path / "db.sqlite3") | DEMO
    policy = env.pop("DWSPS_POLICY")

    def is_warned_of(**more: str) -> bool:
        done = FORKS.run("check", env=env | more)
        assert done.returncode == 0, done.stderr
        return "dwsps_channels.W003" in done.stderr

    assert is_warned_of()
    assert not is_warned_of(DEBUG="1")
    assert not is_warned_of(DWSPS_POLICY=policy)


@pytest.mark.processes
def test_nothing_that_needs_tls_is_on_by_default() -> None:
    names = ("SECURE_SSL_REDIRECT", "SECURE_HSTS_SECONDS", "SECURE_PROXY_SSL_HEADER")
    assert list(settings(*names).values()) == [False, 0, None]


@pytest.mark.parametrize("text", ["-1", "1.5", "an hour", "²"])
def test_seconds_that_are_no_whole_number_are_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HSTS_SECONDS", text)
    with pytest.raises(ImproperlyConfigured, match=r"HSTS_SECONDS is '.*': use a whole number"):
        environment.seconds("HSTS_SECONDS")


def test_flag_that_is_neither_yes_nor_no_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUG", "maybe")
    with pytest.raises(ImproperlyConfigured, match="DEBUG is 'maybe': use 1 or 0"):
        environment.flag("DEBUG")


@pytest.mark.parametrize("word", ["", " 0", "False", "no", "OFF"])
def test_flag_is_off_for_each_word_that_says_so(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUG", word)
    assert environment.flag("DEBUG") is False


def test_development_key_is_one_for_all_who_start_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SECRET_KEY")
    file = tmp_path / "key"
    starters = 8
    together = Barrier(starters)

    def start(_: int) -> str:
        together.wait(timeout=60)
        return environment.secret_key(debug=True, file=file)

    with ThreadPoolExecutor(starters) as pool:
        keys = set(pool.map(start, range(starters)))
    assert keys == {file.read_text()}
    assert len(file.read_text()) == 50
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_development_key_that_cannot_be_kept_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SECRET_KEY")
    with pytest.raises(ImproperlyConfigured, match=r"no key can be kept in .*: set SECRET_KEY"):
        environment.secret_key(debug=True, file=tmp_path / "missing" / "key")


# What it serves


def request(
    server: Server, method: str, path: str, body: str = "", headers: Mapping[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "content_type", "text"),
    [
        ("/", "text/html", "<!doctype html>"),
        ("/admin/login/", "text/html", "csrfmiddlewaretoken"),
        ("/static/admin/css/base.css", "text/css", "DJANGO Admin"),
        ("/static/dwsps_channels/dwsps.js", "text/javascript", "export"),
    ],
)
def test_serves_with_debug_off(server: Server, path: str, content_type: str, text: str) -> None:
    status, headers, body = request(server, "GET", path)
    assert (status, headers.get_content_type()) == (200, content_type)
    assert text.lower() in body.lower()


def test_page_and_its_parts_are_served(server: Server) -> None:
    """Each file under `/static/` that the page at `/` asks for is there."""
    _, _, page = request(server, "GET", "/")
    parts = [part.partition('"')[0] for part in page.split('"/static/')[1:]]
    assert parts
    for part in parts:
        assert request(server, "GET", f"/static/{part}")[0] == 200, part


def test_unknown_path_and_foreign_host_are_refused_without_details(server: Server) -> None:
    assert request(server, "GET", "/nothing-here")[0] == 404
    assert request(server, "GET", "/", headers={"Host": "elsewhere.example.org"})[0] == 400
    assert "DEBUG = True" not in request(server, "GET", "/nothing-here")[2]


async def test_the_log_survives_a_restart(database: Path, tmp_path: Path) -> None:
    """As `make run` serves it, and as it is killed."""
    port = free_port()
    command = [sys.executable, "manage.py", "runpubsub", "--serve", f"{HOST}:{port}"]
    env = base_environment(database) | DEMO
    with Server.all_closed() as servers:
        server = Server("demo", command, port=port, env=env, folder=tmp_path)
        servers.append(server)
        server.start()
        async with connected(server.url) as client:
            cursor = (await client.call("subscribe", "news"))["cursor"]
            await client.publish_and_receive("news", "before")

        await asyncio.to_thread(server.restart)

        async with connected(server.url) as client:
            missed = await client.call("subscribe", "news", since=cursor)
            assert missed["message"] == "before"
            assert (await client.receive())["recovered"] is True


def test_admin_user_made_on_the_command_line_can_log_in(start_server: ServerFactory) -> None:
    server = start_server("fastlane", env={"DJANGO_SUPERUSER_PASSWORD": "swordfish"})
    server.manage("createsuperuser", "--noinput", "--username=ada", "--email=ada@example.org")
    _, headers, _ = request(server, "GET", "/admin/login/")
    token = headers["Set-Cookie"].partition("csrftoken=")[2].partition(";")[0]
    form = {"username": "ada", "password": "swordfish", "csrfmiddlewaretoken": token}
    status, headers, _ = request(
        *(server, "POST", "/admin/login/?next=/admin/", urlencode(form)),
        {"Cookie": f"csrftoken={token}", "Content-Type": "application/x-www-form-urlencoded"},
    )
    assert (status, headers["Location"]) == (302, "/admin/")
    cookies = headers.get_all("Set-Cookie") or []
    [session] = [cookie.partition(";")[0] for cookie in cookies if cookie.startswith("sessionid=")]
    status, _, body = request(server, "GET", "/admin/", headers={"Cookie": session})
    assert status == 200
    assert "ada" in body


async def test_websocket_is_refused_in_a_word_where_there_is_none(server: Server) -> None:
    written = len(server.log)
    with pytest.raises(InvalidStatus) as refusal:
        await connect(f"{server.url}/nothing-here", proxy=None)
    assert refusal.value.response.status_code == 404
    # The log may have something of earlier tests first.
    wait_until(lambda: "/nothing-here" in server.log[written:], what="the refusal is in the log")
    assert "Traceback" not in server.log[written:]


@pytest.mark.parametrize("path", ["", "/", "/ws/pubsub/"])
async def test_websocket_is_there(server: Server, path: str) -> None:
    async with connect(f"{server.url}{path}", proxy=None) as client:
        await client.send('{"type":"subscribe","topic":"news","id":1}')
        ack = json.loads(await client.recv())
        assert (ack["type"], ack["id"]) == ("ack", 1)


def test_database_lets_readers_and_a_writer_be(server: Server) -> None:
    file = server.env["DATABASE_URL"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_ends_when_asked_to(start_server: ServerFactory, server_kind: str) -> None:
    server = start_server(server_kind)
    assert request(server, "GET", "/")[0] == 200
    assert server.terminate() == 0
    assert "Traceback" not in server.log


def test_serves_from_any_folder(start_server: ServerFactory, tmp_path: Path) -> None:
    """A relative DATABASE_URL is one file, wherever the process was started."""
    name = settings("DATABASES", cwd=tmp_path, DATABASE_URL="sqlite:///data/mine.sqlite3")
    assert name["DATABASES"]["default"]["NAME"] == str(ROOT / "data" / "mine.sqlite3")
