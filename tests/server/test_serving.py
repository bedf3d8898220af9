"""``manage.py runpubsub --serve``: everything in one process."""

import asyncio
import itertools
import json
import shutil
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from dwsps_channels.server.serving import Endpoint
from tests.connections.fastlane.raw import raw_client
from tests.peering.site import SECRET
from tests.peering.traffic import Audience, publish
from tests.processes import (
    FORKS,
    HOST,
    ROOT,
    Child,
    base_environment,
    free_port,
    manage,
    wait_until,
    wait_until_async,
)
from tests.wire.client import connected
from tests.wire.test_floods import FLOODS, PUBLISH, gets_answers

# As where the packages of the fast lane are not installed: it hides them, and runs the command.
WITHOUT_FAST = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in ("uvloop", "httptools"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
sys.argv = ["manage.py", *sys.argv[1:]]
from manage import main
main()
"""

Serve = Callable[..., Child]


@pytest.fixture
def serve(database: Path, tmp_path: Path) -> Iterator[Serve]:
    """Call it to get a process that serves and forwards."""
    with Child.all_closed() as children:

        def start(
            name: str = "all",
            *,
            slow: bool = False,
            own_database: Path = database,
            **environment: str,
        ) -> Child:
            port = free_port()
            start = ["-c", WITHOUT_FAST] if slow else ["manage.py"]
            child = Child(
                name,
                [sys.executable, *start, "runpubsub", "--serve", f"{HOST}:{port}"],
                port=port,
                env=base_environment(own_database) | {"DWSPS_SERVER_NAME": name} | environment,
                folder=tmp_path,
            )
            children.append(child)
            return child.start()

        yield start


def url(child: Child) -> str:
    return f"ws://{HOST}:{child.port}"


@pytest.mark.parametrize("slow", [False, True], ids=["fast", "without-the-packages"])
async def test_it_serves_pages_and_websockets_and_ends_well(serve: Serve, slow: bool) -> None:
    child = serve(slow=slow)

    def page() -> int:
        with urllib.request.urlopen(f"http://{HOST}:{child.port}/", timeout=10) as answer:
            return int(answer.status)

    assert await asyncio.to_thread(page) == 200
    if not slow:  # else it is h11 that bounds it, and uvicorn warns of what h11 refuses
        assert await asyncio.to_thread(status_of_a_large_head, child) == 431
    async with connected(url(child)) as client:
        await client.subscribe("news")
        await client.publish_and_receive("news", 1)
        ended = asyncio.create_task(asyncio.to_thread(child.terminate))
        assert (await client.receive())["code"] == "unavailable"
        with pytest.raises(ConnectionClosed) as closed:
            await client.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4200
    assert await ended == 0
    assert "Traceback" not in child.log
    assert ("uvicorn's own websockets are used" in child.log) is slow
    # What is logged of an end that was asked for is no failure.
    assert "WARNING" not in child.log


def test_a_port_that_is_in_use_is_said_in_a_line(serve: Serve, database: Path) -> None:
    child = serve()
    done = FORKS.run("runpubsub", "--serve", f"{HOST}:{child.port}", env=base_environment(database))
    assert done.returncode == 1
    expected = (
        f"CommandError: --serve: cannot listen on {HOST}:{child.port}: Address already in use"
    )
    assert done.stderr.splitlines() == [expected]


def status_of_a_large_head(child: Child) -> int:
    with raw_client(child.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 200_000)
        return client.response()[0]


STATIC = """
from tests.server_settings import *

MIDDLEWARE = [each for each in MIDDLEWARE if "whitenoise" not in each]
"""


@pytest.mark.parametrize("debug", [True, False])
def test_static_files_are_served_where_a_developer_works(
    serve: Serve, tmp_path: Path, debug: bool
) -> None:
    """Without WhiteNoise, as in a project that has not heard of it."""
    (tmp_path / "static_settings.py").write_text(STATIC)
    child = serve(
        DJANGO_SETTINGS_MODULE="static_settings",
        PYTHONPATH=f"{tmp_path}:{ROOT}",
        DEBUG=str(int(debug)),
    )
    for path in ("dwsps_channels/dwsps.js", "admin/css/base.css"):
        url = f"http://{HOST}:{child.port}/static/{path}"
        if debug:
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert len(answer.read()) > 1000
        else:
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(url, timeout=10)
    assert "Warning" not in child.log


async def test_a_terminal_that_is_closed_ends_it_as_sigterm_does(serve: Serve) -> None:
    child = serve()
    async with connected(url(child)) as client:
        await client.subscribe("news")
        child.signal(signal.SIGHUP)
        assert (await client.receive())["code"] == "unavailable"
        with pytest.raises(ConnectionClosed) as closed:
            await client.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4200
    assert await asyncio.to_thread(child.wait) == 0


def test_a_flood_leaves_the_others_their_turns(serve: Serve) -> None:
    """As on the fast lane: tests/wire/test_floods.py says what the numbers mean."""
    child = serve()
    count, least = FLOODS["fastlane"]
    gets_answers(child, PUBLISH, count, least=least)


async def test_it_forwards_to_its_peers_in_the_same_process(
    serve: Serve, migrated_database: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copy(migrated_database, tmp_path / "other.sqlite3"))
    north, south = serve("north"), serve("south", own_database=other)
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    for here, there in ((north, south), (south, north)):
        manage(
            *("peers", "add", there.name, url(there), "--secret-file", str(secret)), env=here.env
        )
    for here, there in ((north, south), (south, north)):
        wait_until(lambda: f"peer '{there.name}': connected" in here.log, 20)  # noqa: B023
    async with Audience(url(north)) as at_north, Audience(url(south)) as at_south:
        await asyncio.gather(
            publish(url(north), "north", 2_000), publish(url(south), "south", 2_000)
        )
        for audience in (at_north, at_south):
            await audience.gets("north", 2_000)
            await audience.gets("south", 2_000)

    def states() -> list[tuple[str, str]]:
        listed = json.loads(manage("peers", "list", "--json", env=north.env))
        return [(peer["name"], peer["state"]) for peer in listed]

    # The worker writes the status with its next poll.
    wait_until(lambda: states() == [("south", "connected")], 20)


async def test_what_it_acknowledged_until_it_ended_reaches_its_peer(
    serve: Serve, migrated_database: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copy(migrated_database, tmp_path / "other.sqlite3"))
    north, south = serve("north"), serve("south", own_database=other)
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    for here, there, only in ((south, north, "--no-forward"), (north, south, "--no-accept")):
        command = ("peers", "add", there.name, url(there), "--secret-file", str(secret), only)
        manage(*command, env=here.env)
    wait_until(lambda: "peer 'south': connected" in north.log, 20)
    assert "read from this process" in north.log
    acknowledged: list[int] = []
    async with connected(url(south)) as subscriber, connected(url(north)) as publisher:
        await subscriber.subscribe("news")

        async def publish_on() -> None:
            with suppress(ConnectionClosed):
                for number in itertools.count():
                    ack = await publisher.call("publish", "news", message=number)
                    if ack["type"] == "ack":
                        acknowledged.append(number)

        publishing = asyncio.create_task(publish_on())
        await wait_until_async(lambda: len(acknowledged) >= 300, 20)
        assert await asyncio.to_thread(north.terminate) == 0
        await publishing
        got = [(await subscriber.receive())["message"] for _ in acknowledged]
        assert got == acknowledged
        await subscriber.nothing_more()


@pytest.mark.parametrize(
    ("arguments", "environment", "problem"),
    [
        (["--serve", "nowhere"], {}, "'nowhere' is not HOST:PORT"),
        (["--serve", "host:99999"], {}, "is not HOST:PORT"),
        (
            ["--serve", "8000", "--server-url", "ws://127.0.0.1/"],
            {},
            "--serve and --server-url exclude each other",
        ),
        (["--server-url", "gopher://127.0.0.1/"], {}, "--server-url: "),
        ([], {"DWSPS_SERVER_URL": "ws://user@127.0.0.1/"}, "DWSPS['SERVER_URL']: "),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    database: Path, arguments: list[str], environment: dict[str, str], problem: str
) -> None:
    done = FORKS.run("runpubsub", *arguments, env=base_environment(database) | environment)
    assert done.returncode == 1
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_each_address_of_a_host_is_bound_and_none_is_left_open() -> None:
    port = free_port()
    bound = Endpoint("localhost", port).listen()
    assert {each.getsockname()[0] for each in bound} <= {"127.0.0.1", "::1"}
    with bound[0]:
        bound[0].listen()
        with pytest.raises(OSError, match="Address already in use"):
            Endpoint("localhost", port).listen()
    for each in bound[1:]:
        each.close()
    for each in Endpoint("localhost", port).listen():
        each.close()


def test_an_address_of_another_machine_cannot_be_bound() -> None:
    with pytest.raises(OSError, match="Cannot assign requested address"):
        Endpoint("192.0.2.1", free_port()).listen()


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("8000", ("127.0.0.1", 8000)),
        ("127.0.0.1:81", ("127.0.0.1", 81)),
        ("0.0.0.0:8000", ("0.0.0.0", 8000)),
        ("[::]:8000", ("::", 8000)),
        ("localhost:8000", ("localhost", 8000)),
    ],
)
def test_where_it_listens(text: str, endpoint: tuple[str, int]) -> None:
    assert Endpoint.parse(text) == endpoint
