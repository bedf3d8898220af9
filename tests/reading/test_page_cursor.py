"""Pages that are rendered while others publish: what a page does not show it is sent, once."""

import asyncio
import json
import random
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.browser import Window, chromium
from tests.form import RELEASE
from tests.processes import HOST, Child, Redis, Server, ServerFactory, free_port, wait_until_async
from tests.wire.client import WireClient, connected

RENDERS = 1000 if RELEASE else 24
AT_ONCE = 4

SITE = {"DJANGO_SETTINGS_MODULE": "tests.reading.site_settings"}
ASGI = "tests.reading.site:asgi"


@pytest.fixture
def children() -> Iterator[list[Child]]:
    with Child.all_closed() as children:
        yield children


def gunicorn(env: Mapping[str, str], folder: Path, workers: str = "gthread") -> Child:
    """The site's pages in processes that serve no websockets."""
    port = free_port()
    # It puts a socket to control it by into HOME.
    env = {**env, **SITE, "HOME": str(folder)}
    options = ("--bind", f"{HOST}:{port}", "--worker-class", workers, "--threads", "4")
    command = [sys.executable, "-m", "gunicorn", *options, "tests.reading.site:application"]
    return Child("gunicorn", command, port=port, env=env, folder=folder)


def get(base: str, path: str) -> Any:
    with urllib.request.urlopen(base + path, timeout=20) as response:
        return json.load(response)


@asynccontextmanager
async def publishing(site: str) -> AsyncIterator[Callable[[], int]]:
    """Store and publish one number after the other. Gives a function that returns the last."""
    last = 0
    stop = False

    async def publish() -> None:
        nonlocal last
        while not stop:
            last = (await asyncio.to_thread(get, site, "/add/"))["number"]

    task = asyncio.create_task(publish())
    try:
        yield lambda: last
    finally:
        stop = True
        await task


async def opened(server: Server, url: str) -> tuple[list[int], WireClient, Any]:
    """Subscribe as a page with this URL does; return the numbers that were replayed, the client and its connection."""
    parts = urlsplit(url)
    [since] = parse_qs(parts.query)["since"]
    connection = connected(f"{server.url}{parts.path}")
    client = await connection.__aenter__()
    await client.send({"type": "subscribe", "topic": "news", "since": since})
    replayed = []
    while (frame := await client.receive())["type"] == "publish":
        replayed.append(frame["message"])
    assert (frame["type"], frame["recovered"]) == ("ack", True), frame
    return replayed, client, connection


async def render(site: str, server: Server, path: str) -> tuple[list[int], list[int]]:
    """Render a page, and open it; return the numbers that it shows, and those that it is sent."""
    shown = await asyncio.to_thread(get, site, path)
    await asyncio.sleep(random.uniform(0, 0.02))  # on its way to the browser
    replayed, client, connection = await opened(server, shown["url"])
    try:
        came = [*replayed, *[(await client.receive())["message"] for _ in range(2)]]
    finally:
        await connection.__aexit__(None, None, None)
    return shown.get("shown") or list(range(1, shown["stored"] + 1)), came


async def render_many(site: str, server: Server, path: str) -> list[tuple[list[int], list[int]]]:
    rendered: list[tuple[list[int], list[int]]] = []
    async with publishing(site) as last:
        await wait_until_async(lambda: last() >= 3)
        while len(rendered) < RENDERS:
            rendered += await asyncio.gather(*(render(site, server, path) for _ in range(AT_ONCE)))
    return rendered


async def check(site: str, server: Server) -> None:
    """Have pages rendered, and see that nobody misses anything, and nobody gets anything twice."""
    in_the_gap = 0
    for shown, came in await render_many(site, server, "/"):
        assert came == list(range(came[0], came[0] + len(came)))
        assert came[0] <= shown[-1] + 1
        in_the_gap += came[-3] > shown[-1] if len(came) > 2 else 0
    # The pages were rendered while others published, or this would show nothing.
    assert in_the_gap > RENDERS // 10
    for shown, came in await render_many(site, server, "/recent/"):
        # With the cursor of what the page shows not even the page and what comes overlap.
        every = [*shown, *came]
        assert every == list(range(every[0], every[0] + len(every)))


def test_pages_in_chromium(start_server: ServerFactory) -> None:
    server = start_server("fastlane", env=SITE, application=ASGI)
    stop = threading.Event()

    def publish() -> None:
        while not stop.is_set():
            get(server.http_url, "/add/")

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        with chromium() as browser:
            window = Window(browser.new_page())

            def visit(query: str) -> int:
                """Give the number of messages that the page misses; below 0, it shows some that come as well."""
                window.page.goto(f"{server.http_url}/page/{query}")
                stored = int(window.find("body").get_attribute("data-stored") or 0)
                window.page.wait_for_function("globalThis.came?.length >= 3")
                came, resets = window.page.evaluate("[came, resets]")
                assert came == list(range(came[0], came[0] + len(came)))
                assert resets == 0
                missed: int = came[0] - (stored + 1)
                return missed

            assert all(visit("") <= 0 for _ in range(RENDERS // 4))
            # Without the cursor it misses some, or the above would show nothing.
            assert any(visit("?blind") > 0 for _ in range(10))
            assert window.complaints == []
    finally:
        stop.set()
        publisher.join()


async def test_pages_of_the_serving_process(start_server: ServerFactory) -> None:
    server = start_server("fastlane", env=SITE, application=ASGI)
    await check(server.http_url, server)


async def test_pages_of_gunicorn_beside_a_server_in_memory(
    start_server: ServerFactory, children: list[Child], tmp_path: Path
) -> None:
    server = start_server("fastlane", env=SITE, application=ASGI)
    site = gunicorn(server.env | {"DWSPS_SERVER_URL": f"{server.url}/ws/pubsub/"}, tmp_path)
    children.append(site)
    site.start()
    await check(f"http://{HOST}:{site.port}", server)


@pytest.mark.parametrize("workers", ["gthread", "gevent"])
async def test_pages_of_gunicorn_beside_servers_on_redis(
    start_server: ServerFactory, redis: Redis, children: list[Child], tmp_path: Path, workers: str
) -> None:
    env = SITE | {"REDIS_URL": redis.url}
    server, _ = (start_server(kind, env=env, application=ASGI) for kind in ("fastlane", "daphne"))
    site = gunicorn(server.env, tmp_path, workers)
    children.append(site)
    site.start()
    await check(f"http://{HOST}:{site.port}", server)
