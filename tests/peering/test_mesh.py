"""Servers and workers as real processes: what is published to one reaches the subscribers of all, once."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.peering.conftest import MakeSites
from tests.peering.site import Site
from tests.peering.traffic import Audience, publish
from tests.processes import KINDS, wait_until_async
from tests.wire.client import connected

COUNT = 1_500  # several windows


@pytest.fixture(scope="module")
def running(make_shared_sites: MakeSites) -> list[Site]:
    """Three servers, one of each kind, with their workers."""
    sites = make_shared_sites("north", "south", "west")
    for site, kind in zip(sites, KINDS, strict=True):
        site.start_server(kind)
    for site in sites:
        site.start_worker()
    return sites


@pytest.fixture
def sites(running: list[Site]) -> Iterator[list[Site]]:
    """They know no peers yet."""
    yield running
    for site in running:
        site.remove_peers()


async def start(*sites: Site) -> None:
    """Start each site's server and then its worker, which need not wait for each other."""
    for site in sites:
        site.start_server()
    for site in sites:
        site.start_worker()


async def connect(*pairs: tuple[Site, Site]) -> None:
    """Have each first site forward to the second, and wait until they do."""
    for here, there in pairs:
        here.add_peer(there.name, there.url)
    for here, there in pairs:
        await is_at(here, there.name, "connected")


async def is_at(site: Site, peer: str, state: str, timeout: float = 20.0) -> None:
    """Wait until the site's worker tells this state of a peer."""
    await wait_until_async(
        lambda: site.peer(peer).get("state") == state,
        timeout,
        f"{site.name} tells that {peer} is {state}",
    )


def mesh(sites: list[Site]) -> list[tuple[Site, Site]]:
    return [(here, there) for here in sites for there in sites if here is not there]


async def test_each_subscriber_of_a_mesh_gets_each_message_once_and_in_order(
    sites: list[Site],
) -> None:
    await connect(*mesh(sites))
    audiences = [Audience(site.url) for site in sites]
    for audience in audiences:
        await audience.__aenter__()
    try:
        await asyncio.gather(*(publish(site.url, site.name, COUNT) for site in sites))
        for site, audience in zip(sites, audiences, strict=True):
            for publisher in sites:
                await audience.gets(publisher.name, COUNT)
                assert audience.flags[publisher.name] == {publisher is not site}
        await cross_byte_for_byte(sites[0], *sites[1:])
    finally:
        for audience in audiences:
            await audience.__aexit__()


async def cross_byte_for_byte(here: Site, *others: Site) -> None:
    """Publish what decoders on the way have most trouble with."""
    texts = [r'{"\ud83d":["\ude00","\\ud83d"]}', "[" * 128 + "]" * 128]
    for there in others:
        async with connected(there.url) as reader, connected(here.url) as writer:
            await reader.subscribe("raw")
            for text in texts:
                await writer.connection.send(
                    '{"type":"publish","topic":"raw","message":' + text + "}"
                )
                assert (await writer.receive())["type"] == "ack"
                assert f'"message":{text},' in str(await reader.connection.recv())


async def test_one_row_is_one_direction(sites: list[Site]) -> None:
    north, south, _ = sites
    # South knows north's secret, and does not forward to it.
    south.add_peer("north", north.url, "--no-forward")
    north.add_peer("south", south.url)
    await is_at(north, "south", "connected")
    async with Audience(north.url) as at_north, Audience(south.url) as at_south:
        await publish(south.url, "south", 100)
        await publish(north.url, "north", 100)
        await at_south.gets("north", 100)
        await at_south.gets("south", 100)
        await at_north.gets("north", 100)
        assert "south" not in at_north.numbers


async def test_a_ring_of_three_and_a_link_to_oneself_deliver_once(sites: list[Site]) -> None:
    north, south, west = sites
    # A peer accepts from whoever has the secret: each row does that for the one before it.
    for here, there in ((north, south), (south, west), (west, north)):
        here.add_peer(there.name, there.url)
    for here, there in ((north, south), (south, west), (west, north)):
        await is_at(here, there.name, "connected")
    north.add_peer("myself", north.url)
    await is_at(north, "myself", "loop")
    assert "itself" in north.peer("myself")["last_error"]
    async with (
        Audience(north.url) as at_north,
        Audience(south.url) as at_south,
        Audience(west.url) as at_west,
    ):
        await publish(north.url, "north", 500)
        await at_north.gets("north", 500)
        await at_south.gets("north", 500)
        # One hop: what south got from north goes no further.
        await publish(south.url, "south", 500)
        await at_west.gets("south", 500)
        assert "north" not in at_west.numbers
        assert at_north.flags["north"] == {False}


async def test_the_same_server_under_two_names_gets_a_message_once(sites: list[Site]) -> None:
    north, south, _ = sites
    south.add_peer("north", north.url)
    north.add_peer("south", south.url)
    await is_at(north, "south", "connected")
    north.add_peer("south-again", south.url)
    await is_at(north, "south-again", "loop")
    assert "'south'" in north.peer("south-again")["last_error"]
    async with Audience(south.url) as at_south:
        await publish(north.url, "north", 500)
        await at_south.gets("north", 500)


async def test_only_the_topics_of_the_row_are_forwarded(sites: list[Site]) -> None:
    north, south, _ = sites
    south.add_peer("north", north.url)
    north.add_peer("south", south.url, "--topic", "traffic.wanted", "--topic", "weather")
    await is_at(north, "south", "connected")
    async with Audience(south.url) as at_south:
        await publish(north.url, "unwanted", 50)
        await publish(north.url, "wanted", 50)
        await at_south.gets("wanted", 50)
        assert "unwanted" not in at_south.numbers
