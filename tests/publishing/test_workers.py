"""Publishing in gunicorn's workers and Celery's pools: the real ones, beside a server that runs."""

import asyncio
import json
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.processes import HOST, Child, Redis, Server, ServerFactory, free_port
from tests.wire.client import WireClient, connected

# On a busy machine an answer that comes may take a while.
LONG_TIMEOUT = {"PUBLISH_TIMEOUT": 20.0}

COUNT = 12
ALL = [[number, 0] for number in range(COUNT)]

GUNICORN = (sys.executable, "-W", "error::RuntimeWarning", "-m", "gunicorn")
CELERY = (
    sys.executable,
    "-m",
    "celery",
    "-A",
    "tests.publishing.tasks",
    "worker",
    "--loglevel",
    "INFO",
)


class CeleryWorker(Child):
    """Listens on no port."""

    def _accepts(self) -> bool:
        if self.exit_status is not None:
            raise AssertionError(f"{self.name} ended with status {self.exit_status}")
        return " ready." in self.log


@pytest.fixture(scope="module")
def server_kind() -> str:
    return "fastlane"


@pytest.fixture
def children() -> Iterator[list[Child]]:
    with Child.all_closed() as children:
        yield children


def gunicorn(env: Mapping[str, str], folder: Path, *options: str) -> Child:
    port = free_port()
    # It puts a socket to control it by into HOME.
    env = {**env, "DJANGO_SETTINGS_MODULE": "tests.publishing.site_settings", "HOME": str(folder)}
    command = [*GUNICORN, "--bind", f"{HOST}:{port}", *options]
    return Child("gunicorn", command, port=port, env=env, folder=folder)


def beside(server: Server) -> dict[str, str]:
    """The environment of a process of the same project, which reaches the server by its websocket."""
    return server.env | {
        "DWSPS_SERVER_URL": f"{server.url}/ws/pubsub/",
        "TEST_DWSPS": json.dumps(LONG_TIMEOUT),
    }


async def visit(site: Child) -> None:
    """As many requests at once as there are messages to publish; each has to succeed."""

    def get(number: int) -> int:
        url = f"http://{HOST}:{site.port}/?number={number}"
        with urllib.request.urlopen(url, timeout=20) as response:
            status: int = response.status
            return status

    assert (
        await asyncio.gather(*(asyncio.to_thread(get, number) for number in range(COUNT)))
        == [200] * COUNT
    )


async def receives_all(client: WireClient) -> None:
    came = [(await client.receive())["message"] for _ in range(COUNT)]
    assert sorted(came) == ALL
    await client.nothing_more()


def is_clean(child: Child) -> None:
    """It ends in order, and nothing went wrong in it."""
    assert child.terminate() == 0
    assert "Traceback" not in child.log
    assert "lost messages" not in child.log


@pytest.mark.parametrize(
    "options",
    [
        ["--worker-class", "sync", "--workers", "2"],
        ["--worker-class", "gthread", "--threads", "4"],
        [
            "--worker-class",
            "gevent",
            "--workers",
            "2",
            "--config",
            "python:tests.publishing.patched",
        ],
    ],
    ids=["sync", "gthread", "gevent"],
)
async def test_gunicorn(
    options: list[str], server: Server, children: list[Child], tmp_path: Path
) -> None:
    env = beside(server) | {"PUBLISH_BEFORE_FORK": "1"}
    async with connected(server.url) as client:
        await client.subscribe("news")
        site = gunicorn(env, tmp_path, *options, "--preload", "tests.publishing.site:application")
        children.append(site)
        site.start()
        assert (await client.receive())["message"] == "before the fork"
        await visit(site)
        await receives_all(client)
    is_clean(site)


async def test_workers_of_gunicorn_on_redis(
    redis: Redis, start_server: ServerFactory, children: list[Child], tmp_path: Path
) -> None:
    """Those with gevent are beside the server, those with uvicorn are of it."""
    server = start_server("fastlane", env={"REDIS_URL": redis.url}, dwsps=LONG_TIMEOUT)
    async with connected(server.url) as client:
        await client.subscribe("news")
        uvicorn = ["--worker-class", "uvicorn_worker.UvicornWorker", "--workers", "2"]
        for number, options in enumerate(
            (
                ["--worker-class", "gevent", "tests.publishing.site:application"],
                [*uvicorn, "tests.publishing.site:asgi"],
            )
        ):
            folder = tmp_path / str(number)
            folder.mkdir()
            site = gunicorn(server.env, folder, *options)
            children.append(site)
            site.start()
            await visit(site)
            await receives_all(client)
            is_clean(site)


@pytest.mark.parametrize(
    "pool", ["prefork", "gevent", pytest.param("eventlet", marks=pytest.mark.full_form)]
)
async def test_celery(pool: str, server: Server, children: list[Child], tmp_path: Path) -> None:
    env = beside(server) | {"TASKS": str(COUNT), "TASKS_FOLDER": str(tmp_path)}
    command = [
        *CELERY,
        "--pool",
        pool,
        "--concurrency",
        "4",
        "--without-mingle",
        "--without-gossip",
    ]
    worker = CeleryWorker("celery", command, port=0, env=env, folder=tmp_path)
    children.append(worker)
    async with connected(server.url) as client:
        await client.subscribe("news")
        worker.start()
        await receives_all(client)
    is_clean(worker)
