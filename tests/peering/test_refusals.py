"""Refusals of links: each peer that does not belong is refused, with a reason."""

import asyncio
import itertools
import json
from collections.abc import Iterator

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.form import RELEASE
from tests.peering.conftest import MakeSites
from tests.peering.site import SECRET, Site
from tests.peering.test_mesh import is_at
from tests.peering.traffic import Audience, publish
from tests.processes import KINDS, WAIT_TIMEOUT, wait_until_async
from tests.wire.client import connected

WRONG = "a-secret-that-nobody-has-here"
# A false one is not compared again for a second.
UNACCEPTED = "a-secret-that-is-not-accepted"

# Seconds in which a change of a peer takes effect: as docs/how-to/peering.md promises, or more on a machine that runs other tests.
IN_EFFECT_WITHIN = 2.0 if RELEASE else WAIT_TIMEOUT


@pytest.fixture(scope="module")
def running(make_shared_sites: MakeSites) -> list[Site]:
    """Two servers, the first of them with a worker, and with the timings of the defaults: rows are looked at every second."""
    north, south = make_shared_sites("north", "south", timings={})
    north.start_server()
    south.start_server()
    north.start_worker()
    return [north, south]


@pytest.fixture
def north_and_south(running: list[Site]) -> Iterator[list[Site]]:
    """They know no peers yet."""
    yield running
    for site in running:
        site.remove_peers()


@pytest.fixture
def south(north_and_south: list[Site]) -> Site:
    return north_and_south[1]


async def is_refused(site: Site, secret: str) -> bool:
    """Return whether a connection with this secret is refused with 403, in the header and in the URL alike."""
    statuses = []
    for url, headers in (
        (site.url, {"Authorization": f"Bearer {secret}"}),
        (f"{site.url}/?token={secret}", {}),
    ):
        try:
            async with connect(url, additional_headers=headers):
                statuses.append(101)
        except InvalidStatus as error:
            statuses.append(error.response.status_code)
    assert len(set(statuses)) == 1
    return statuses == [403, 403]


async def test_a_wrong_secret_a_disabled_peer_and_one_without_accept(south: Site) -> None:
    server = south.server
    south.add_peer("north", "ws://127.0.0.1:9/", "--no-forward")
    assert not await is_refused(south, SECRET)
    assert await is_refused(south, WRONG)
    south.peers("disable", "north")
    assert await is_refused(south, SECRET)
    assert "refused: wrong secret" in server.log
    assert "refused: peer 'north' is disabled" in server.log
    south.add_peer("west", "ws://127.0.0.1:9/", "--no-forward", "--no-accept", secret=UNACCEPTED)
    assert await is_refused(south, UNACCEPTED)
    assert "refused: peer 'west' is not accepted from" in server.log
    for secret in (SECRET, WRONG, UNACCEPTED):
        assert secret not in server.log.replace(f"?token={secret}", "")


async def status_of(url: str, secret: str) -> int:
    """Return the status of the handshake."""
    try:
        headers = {"Authorization": f"Bearer {secret}"}
        async with connect(url, additional_headers=headers, open_timeout=20):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


async def test_guessing_is_slowed_down_and_each_guess_is_answered(make_sites: MakeSites) -> None:
    """On every server, also on Daphne, which breaks the connection after 5 s without an answer."""
    sites = dict(zip(KINDS, make_sites(*KINDS), strict=True))
    for kind, site in sites.items():
        site.start_server(kind)
        site.add_peer("north", "ws://127.0.0.1:9/", "--no-forward")

    async def guess(site: Site) -> None:
        numbers = itertools.count()
        served = asyncio.Event()

        async def guess_on() -> list[int]:
            """Guess once, and then until the client has its answer."""
            found: list[int] = []
            while not (found and served.is_set()):
                found.append(await status_of(site.url, f"{WRONG}-{next(numbers)}"))
            return found

        guessing = [asyncio.create_task(guess_on()) for _ in range(30)]
        async with connected(site.url) as client:
            await client.subscribe("news")
        served.set()
        answers = [answer for found in await asyncio.gather(*guessing) for answer in found]
        assert set(answers) == {403, 429}
        assert site.server.log.count("refused: wrong secret") < len(answers) / 3
        assert "too many false credentials from this address" in site.server.log
        # One after the other they are all looked at, however many there were.
        before = site.server.log.count("refused: wrong secret")
        for number in range(1, 3):
            assert await status_of(site.url, f"{WRONG}-again-{number}") == 403
            assert site.server.log.count("refused: wrong secret") == before + number
        assert await status_of(site.url, SECRET) == 101

    await asyncio.gather(*map(guess, sites.values()))


async def test_a_client_that_forges_the_flag(south: Site) -> None:
    async with Audience(south.url) as audience, connected(south.url) as forger:
        answer = await forger.call(
            "publish", "traffic", message=["forged", 0], fromPeerServer=True, id=1, origin="x"
        )
        assert (answer["type"], answer["code"]) == ("error", "forbidden")
        await publish(south.url, "honest", 1)
        await audience.gets("honest", 1)
        assert "forged" not in audience.numbers


async def test_the_sender_is_told_of_a_refusal(
    north_and_south: list[Site], make_sites: MakeSites
) -> None:
    north, _ = north_and_south
    [west] = make_sites("west")
    # A server whose clients come with tokens takes peers as well.
    west.dwsps["AUTHENTICATOR"] = "dwsps_channels.tokens.SignedToken"
    west.start_server()
    north.add_peer("west", west.url)
    await is_at(north, "west", "refused")
    assert "403" in north.peer("west")["last_error"]
    # It is let in once the row is there, and what was published meanwhile has waited.
    await publish(north.url, "north", 50)
    async with Audience(west.url) as audience:
        west.add_peer("north", north.url, "--no-forward")
        await audience.gets("north", 50)


async def test_an_accepted_link_is_closed_once_its_row_forbids_it(south: Site) -> None:
    headers = {"Authorization": f"Bearer {SECRET}"}
    south.add_peer("north", "ws://127.0.0.1:9/", "--no-forward")
    for change in ("disable", "remove"):
        async with connect(south.url, additional_headers=headers) as link, asyncio.timeout(60):
            assert json.loads(await link.recv())["type"] == "hello"
            await asyncio.to_thread(south.peers, change, "north")
            async with asyncio.timeout(IN_EFFECT_WITHIN):
                assert json.loads(await link.recv())["code"] == "forbidden"
                with pytest.raises(ConnectionClosed) as closed:
                    await link.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4003
        if change == "disable":
            south.peers("enable", "north")


async def test_a_change_reaches_a_running_worker(north_and_south: list[Site]) -> None:
    north, south = north_and_south

    def count(event: str) -> int:
        return south.server.log.count(f"peer 'north' {event}")

    south.add_peer("north", north.url, "--no-forward")
    north.add_peer("south", south.url)
    await is_at(north, "south", "connected")
    before = count("disconnected")
    north.peers("disable", "south")
    await wait_until_async(lambda: count("disconnected") > before, IN_EFFECT_WITHIN)
    await is_at(north, "south", "disabled", IN_EFFECT_WITHIN)
    before = count("connected")
    north.peers("enable", "south")
    await wait_until_async(lambda: count("connected") > before, IN_EFFECT_WITHIN)
