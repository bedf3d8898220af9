"""Warnings about options that the ASGI server was started without."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from dwsps_channels.connections.servers import options
from dwsps_channels.core.limits import Limits
from dwsps_channels.server.runtime import FEED_REQUEST_BYTES, FORWARDING_BYTES
from tests.processes import HOST, Redis, Server, ServerFactory, base_environment, free_port

Start = Callable[..., Server]


def log_of(server: Server) -> str:
    """Return its log once a second client has connected."""
    for _ in range(2):
        with connect(server.url, proxy=None):
            pass
    server.terminate()
    return server.log


@pytest.fixture
def start(migrated_database: Path, tmp_path: Path) -> Iterator[Start]:
    """Call it with a command in which PORT stands for a free port, and what the environment has in addition."""
    with Server.all_closed() as servers:

        def start(*command: str, **environment: str) -> Server:
            port = free_port()
            server = Server(
                "server",
                [sys.executable, "-m", *(part.replace("PORT", str(port)) for part in command)],
                port=port,
                env=base_environment(migrated_database) | environment,
                folder=tmp_path,
            )
            servers.append(server)
            return server.start()

        yield start


def test_one_that_was_started_as_the_documentation_says_says_nothing(
    start_server: ServerFactory, server_kind: str
) -> None:
    assert "WARNING" not in log_of(start_server(server_kind))


DAPHNE = ("daphne", "-b", HOST, "-p", "PORT", "project.asgi:application")


def test_daphne(start: Start) -> None:
    log = log_of(start(*DAPHNE[:-1], "--websocket-max-message-size", "0", DAPHNE[-1]))
    assert log.count("WARNING dwsps_channels.server_options: Daphne ") == 3
    assert "listens with a backlog of 50" in log
    assert "Start it with -e tcp:port=PORT:interface=HOST:backlog=2048" in log
    assert "gives a client 5 s for its handshake" in log
    assert "Start it with --websocket_connect_timeout 20" in log
    assert "buffers messages of any size" in log
    assert "Start it with --websocket-max-message-size 1048576" in log


UVICORN = ("uvicorn", "--host", HOST, "--port", "PORT", "project.asgi:application")


def test_uvicorn(start: Start) -> None:
    log = log_of(start(*UVICORN))
    assert log.count("WARNING dwsps_channels.server_options: uvicorn ") == 2
    assert "buffers messages of up to 16777216 bytes" in log
    assert "Start it with --ws-max-size 1048576" in log
    assert "Start it with --http dwsps_channels.fastlane:HttpProtocol" in log


def test_the_fast_lane_without_its_loop(start: Start) -> None:
    """It bounds messages whatever uvicorn's limit is, and handshakes if it is started with its loop."""
    log = log_of(start(*UVICORN[:-1], "--ws", "dwsps_channels.fastlane:Protocol", UVICORN[-1]))
    assert log.count("WARNING dwsps_channels.server_options: uvicorn ") == 1
    assert "Start it with --http dwsps_channels.fastlane:HttpProtocol" in log


def test_a_limit_below_that_of_the_app(start_server: ServerFactory) -> None:
    log = log_of(
        start_server("uvicorn", "--ws-max-size", "1000", dwsps={"MAX_MESSAGE_BYTES": 10_000})
    )
    assert "ends the connection of a client whose message is above 1000 bytes" in log


@pytest.mark.parametrize("size", [1, 1000 * 1024, 1024 * 1024, 16 * 1024 * 1024])
def test_the_advised_limit_has_room_for_every_session_and_is_not_warned_of(size: int) -> None:
    limits = Limits(message_bytes=size, buffered_bytes=size)
    advised = options.message_bytes(limits)
    assert advised >= size + max(FORWARDING_BYTES, FEED_REQUEST_BYTES)
    assert list(options._problems_of_limit(limits, advised, "--ws-max-size")) == []


GUNICORN = (
    *("gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-b", f"{HOST}:PORT"),
    "project.asgi:application",
)
SEVERAL = "this is one of 2 processes, and they cannot reach each other"


FASTLANE = (
    *(*UVICORN[:-1], "--ws", "dwsps_channels.fastlane:Protocol"),
    *("--loop", "dwsps_channels.fastlane:new_loop", UVICORN[-1]),
)


@pytest.mark.parametrize(
    "command",
    [
        (*UVICORN[:-1], "--workers", "2", UVICORN[-1]),
        (*FASTLANE[:-1], "--workers", "2", FASTLANE[-1]),
        (*GUNICORN[:-1], "-w", "2", GUNICORN[-1]),
    ],
    ids=["uvicorn", "fastlane", "gunicorn"],
)
def test_several_processes_without_a_broker(start: Start, command: tuple[str, ...]) -> None:
    # Whatever the environment says: one of these is what it was started with.
    assert SEVERAL in log_of(start(*command, WEB_CONCURRENCY="5", DEBUG="1"))


def test_several_processes_with_a_broker(start: Start, redis: Redis) -> None:
    command = (*UVICORN[:-1], "--workers", "2", UVICORN[-1])
    assert SEVERAL not in log_of(start(*command, REDIS_URL=redis.url))


@pytest.mark.parametrize("command", [DAPHNE, UVICORN], ids=["daphne", "uvicorn"])
def test_a_developer_s_says_nothing(start: Start, command: tuple[str, ...]) -> None:
    assert "WARNING" not in log_of(start(*command, DEBUG="1"))
