"""A dwsps 1.0.1 server under Node as a peer, in both directions."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.peering.conftest import MakeSites
from tests.peering.site import QUICK, SECRET, Site
from tests.peering.test_mesh import is_at
from tests.peering.traffic import Audience, publish
from tests.processes import Child, free_port, missing, require, wait_until_async
from tests.proxy import proxy_to

SCRIPT = Path(__file__).parent / "dwsps101.mjs"
WS = SCRIPT.parent.parent / "js" / "node_modules" / "ws"

StartNode = Callable[..., Child]

COUNT = 800


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[StartNode]:
    """Call it with the URLs of its peers to get a running server that speaks dwsps 1.0.1."""
    if not WS.exists():
        missing("the npm package ws is not installed in tests/js: `make test` does it")
    node = require("node")
    with ExitStack() as stack:

        def start(*peers: str, port: int | None = None) -> Child:
            port = port or free_port()
            child = Child(
                f"node-{port}",
                [node, str(SCRIPT), str(port), *peers],
                port=port,
                env={"PATH": ""},
                folder=tmp_path,
            )
            stack.callback(child.close)
            return child.start()

        yield start


@pytest.fixture(scope="module")
def running(make_shared_sites: MakeSites) -> Site:
    """A server of ours and its worker."""
    [site] = make_shared_sites("django", timings=QUICK | {"LINK_OPEN_TIMEOUT": 1.0})
    site.start_server()
    site.start_worker()
    return site


@pytest.fixture
def site(running: Site) -> Iterator[Site]:
    """It knows no peers yet."""
    yield running
    running.remove_peers()


async def test_both_ways_with_nothing_but_a_token_in_the_url(
    site: Site, start_node: StartNode
) -> None:
    node = start_node(f"{site.url}/?token={SECRET}")
    node_url = f"ws://127.0.0.1:{node.port}"
    site.add_peer("node", node_url, "--dwsps")
    await is_at(site, "node", "connected")
    async with Audience(site.url) as at_site, Audience(node_url) as at_node:
        await asyncio.gather(publish(site.url, "django", 1_000), publish(node_url, "node", 1_000))
        for audience in (at_site, at_node):
            await audience.gets("django", 1_000)
            await audience.gets("node", 1_000)
        assert at_site.flags == {"django": {False}, "node": {True}}
        assert at_node.flags == {"django": {True}, "node": {False}}
    await wait_until_async(lambda: site.peer("node")["acked"] == 1_000)


async def test_it_may_be_killed_and_come_back(site: Site, start_node: StartNode) -> None:
    """It cannot know a message again: what was on its way when it died may come twice, but nothing is missing."""
    node = start_node()
    async with proxy_to(node.port) as proxy, Audience(f"ws://127.0.0.1:{node.port}") as at_node:
        site.add_peer("node", f"ws://127.0.0.1:{proxy.port}", "--dwsps")
        await is_at(site, "node", "connected")
        publishing = asyncio.create_task(publish(site.url, "django", COUNT, rate=200))
        await at_node.has_so_many("django", 150)
        at_node.subscribed.clear()
        # It keeps nothing for subscribers that are away: they are to be back before the link is.
        proxy.cut()
        await asyncio.to_thread(node.restart)
        async with asyncio.timeout(20):
            await at_node.subscribed.wait()
        proxy.drop()
        proxy.mend()
        await publishing
        await wait_until_async(lambda: set(at_node.numbers["django"]) == set(range(COUNT)), 60)
    assert site.peer("node")["dropped"] == 0


async def test_a_forged_flag_is_refused_where_the_token_is_missing(
    site: Site, start_node: StartNode
) -> None:
    node = start_node(site.url)
    node_url = f"ws://127.0.0.1:{node.port}"
    async with Audience(site.url) as at_site, Audience(node_url) as at_node:
        await publish(node_url, "node", 50)
        await at_node.gets("node", 50)
        await publish(site.url, "django", 50)
        await at_site.gets("django", 50)
        assert "node" not in at_site.numbers
