"""A dwsps 1.0.1 server under Node as a peer, in both directions."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.peering.conftest import MakeSites
from tests.peering.site import SECRET
from tests.peering.test_mesh import is_at
from tests.peering.traffic import Audience, publish
from tests.processes import Child, free_port, missing, require, wait_until_async

SCRIPT = Path(__file__).parent / "dwsps101.mjs"
WS = SCRIPT.parent.parent / "js" / "node_modules" / "ws"

StartNode = Callable[..., Child]


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


async def test_both_ways_with_nothing_but_a_token_in_the_url(
    make_sites: MakeSites, start_node: StartNode
) -> None:
    [site] = make_sites("django")
    site.start_server()
    node = start_node(f"{site.url}/?token={SECRET}")
    node_url = f"ws://127.0.0.1:{node.port}"
    site.add_peer("node", node_url, "--dwsps")
    site.start_worker()
    await is_at(site, "node", "connected")
    async with Audience(site.url) as at_site, Audience(node_url) as at_node:
        await asyncio.gather(publish(site.url, "django", 2_000), publish(node_url, "node", 2_000))
        for audience in (at_site, at_node):
            await audience.gets("django", 2_000)
            await audience.gets("node", 2_000)
        assert at_site.flags == {"django": {False}, "node": {True}}
        assert at_node.flags == {"django": {True}, "node": {False}}
    await wait_until_async(lambda: site.peer("node")["acked"] == 2_000)


async def test_it_may_be_killed_and_come_back(make_sites: MakeSites, start_node: StartNode) -> None:
    """It cannot know a message again: what was on its way when it died may come twice, but nothing is missing."""
    [site] = make_sites("django")
    site.start_server()
    node = start_node()
    node_url = f"ws://127.0.0.1:{node.port}"
    site.add_peer("node", node_url, "--dwsps")
    site.start_worker()
    await is_at(site, "node", "connected")
    async with Audience(node_url) as at_node:
        publishing = asyncio.create_task(publish(site.url, "django", 1_500, rate=400))
        await at_node.has_so_many("django", 300)
        await asyncio.to_thread(node.restart)
        await publishing
        await at_node.has_so_many("django", 1_400)
    assert site.peer("node")["dropped"] == 0


async def test_a_forged_flag_is_refused_where_the_token_is_missing(
    make_sites: MakeSites, start_node: StartNode
) -> None:
    [site] = make_sites("django")
    site.start_server()
    node = start_node(site.url)
    node_url = f"ws://127.0.0.1:{node.port}"
    async with Audience(site.url) as at_site, Audience(node_url) as at_node:
        await publish(node_url, "node", 50)
        await at_node.gets("node", 50)
        await publish(site.url, "django", 50)
        await at_site.gets("django", 50)
        assert "node" not in at_site.numbers
