"""The connection test: what it says of servers of ours, of dwsps 1.0.1, of others, and of nobody."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from dwsps_channels.peering.outbound import probe as probe_module
from dwsps_channels.peering.outbound.config import PeerConfig
from dwsps_channels.peering.outbound.probe import ProbeResult, probe, probe_all
from tests.processes import HOST, Server, ServerFactory, free_port

SECRET = "correct-horse-battery-staple"
OURS = "0" * 32
Handler = Callable[[ServerConnection], Awaitable[None]]


def config(url: str, secret: str = SECRET, *, dwsps: bool = False) -> PeerConfig:
    return PeerConfig(id=1, name="b", url=url, secret=secret, dwsps=dwsps)


@pytest.fixture(autouse=True)
def no_log_tells(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that the secret is in no log, whatever the outcome of a test."""
    # The servers of these tests log what they are sent.
    logging.getLogger("websockets.server").setLevel(logging.INFO)
    with caplog.at_level(logging.DEBUG):
        yield
    assert SECRET not in "".join(record.getMessage() for record in caplog.get_records("call"))


@asynccontextmanager
async def serving(handler: Handler, **options: Any) -> AsyncIterator[str]:
    async with serve(handler, HOST, 0, **options) as server:
        yield f"ws://{HOST}:{server.sockets[0].getsockname()[1]}/"


async def answering(handler: Handler, *, dwsps: bool = False, **options: Any) -> ProbeResult:
    async with serving(handler, **options) as url:
        return await probe(config(url, dwsps=dwsps), OURS)


# Servers of ours


@pytest.fixture
def server(start_server: ServerFactory, server_kind: str, tmp_path: Path) -> Server:
    """A running server that knows us by the secret."""
    running = start_server(server_kind)
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    running.manage("peers", "add", "us", "ws://us.example/", "--secret-file", str(secret))
    return running


def test_what_it_says_of_a_server_of_ours(server: Server) -> None:
    identify = "from dwsps_channels.models import server_id; print(server_id())"
    its_id = server.manage("shell", "--verbosity", "0", "-c", identify).strip()

    def ask(url: str, secret: str = SECRET, own_id: str = OURS) -> ProbeResult:
        [result] = probe_all([config(url, secret)], own_id)
        assert SECRET not in repr(result)
        return result

    known = ask(server.url)
    assert known.ok
    assert known.message.startswith("connects and authenticates at 'dwsps', version 0.")
    assert known.round_trip is not None
    assert f"{known.round_trip * 1000:.1f} ms" in known.message

    by_url = ask(f"{server.url}/?token={SECRET}", "")
    assert by_url.ok
    assert by_url.message.startswith("connects and is accepted")

    itself = ask(server.url, own_id=its_id)
    assert not itself.ok
    assert itself.message.startswith("leads to this server itself")

    unknown = ask(server.url, "")
    assert not unknown.ok
    assert "as an ordinary client: it needs a secret" in unknown.message

    elsewhere = ask(f"{server.url}/nowhere/")
    assert not elsewhere.ok
    assert "another secret" not in elsewhere.message

    for url, secret in ((server.url, SECRET + "-2"), (f"{server.url}/?token=wrong", "")):
        wrong = ask(url, secret)
        assert not wrong.ok
        assert wrong.message.startswith("refused (HTTP 403): the other side has another secret, or")

    server.manage("peers", "disable", "us")
    disabled = ask(server.url)
    assert not disabled.ok
    assert disabled.message.startswith("refused (HTTP 403)")


# dwsps 1.0.1


async def test_a_server_that_gives_no_id_back_is_taken_for_dwsps() -> None:
    async def handler(connection: ServerConnection) -> None:
        async for frame in connection:
            asked = json.loads(frame)
            ack = {"type": "ack", "action": asked["type"], "topic": asked["topic"]}
            await connection.send(json.dumps(ack))

    found = await answering(handler, dwsps=True)
    assert found.ok
    assert found.message.startswith("connects; a dwsps 1.0.1 server, it seems; round trip ")

    found = await answering(handler)
    assert not found.ok
    assert "its row does not say so" in found.message


# Others


async def test_deliveries_in_between_are_no_answer() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send('{"type":"publish","topic":"a","message":1}')
        await connection.recv()
        await connection.send('{"type":"error","code":"forbidden","id":1}')
        await connection.wait_closed()

    found = await answering(handler)
    assert found.message.startswith(
        "connects, but as an ordinary client: it does not check the secret"
    )


@pytest.mark.parametrize("frame", ["hello", "[]", '{"type":1}', b"\xff\xfe", "[" * 50_000])
async def test_who_speaks_another_protocol_is_recognised(frame: str | bytes) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send(frame)
        await connection.wait_closed()

    found = await answering(handler)
    assert not found.ok
    assert found.message.endswith("does not speak the protocol of dwsps")


async def test_who_does_not_answer_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe_module, "ANSWER_TIMEOUT", 0.1)

    async def handler(connection: ServerConnection) -> None:
        async for _ in connection:
            pass

    found = await answering(handler)
    assert not found.ok
    assert "did not answer within 0.1 s" in found.message


async def test_who_answers_no_handshake_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe_module, "OPEN_TIMEOUT", 0.1)
    # The kernel accepts; nobody reads.
    with socket.create_server((HOST, 0)) as silent:
        found = await probe(config(f"ws://{HOST}:{silent.getsockname()[1]}/"), OURS)
    assert found == ProbeResult(False, "no connection within 0.1 s")


async def test_a_connection_that_is_closed_at_once_is_told_with_its_reason() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.close(4003, "not you")

    found = await answering(handler)
    assert found == ProbeResult(False, "connects, but is closed at once with 4003: not you")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (HTTPStatus.OK, "there is a web page, and no websocket"),
        (HTTPStatus.FOUND, "redirects are not followed"),
        (HTTPStatus.UNAUTHORIZED, "refused (HTTP 401), and without a secret as well: is the path"),
        (HTTPStatus.FORBIDDEN, "refused (HTTP 403), and without a secret as well: is the path"),
        (HTTPStatus.NOT_FOUND, "refused (HTTP 404): no websocket at that path"),
        (HTTPStatus.TOO_MANY_REQUESTS, "too many false secrets came from this address"),
        (HTTPStatus.BAD_GATEWAY, "HTTP 502"),
    ],
)
async def test_http_answers_are_put_in_words(status: HTTPStatus, message: str) -> None:
    def respond(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(status, "")

    async def handler(connection: ServerConnection) -> None:
        pass

    found = await answering(handler, process_request=respond)
    assert not found.ok
    assert message in found.message


async def test_a_refusal_without_a_secret_says_so() -> None:
    def respond(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(HTTPStatus.FORBIDDEN, "")

    async def handler(connection: ServerConnection) -> None:
        pass

    async with serving(handler, process_request=respond) as url:
        found = await probe(config(url, ""), OURS)
    assert found.message == "refused (HTTP 403): we have no secret for it"


async def test_a_server_without_tls_is_told_from_one_that_is_not_there() -> None:
    async def handler(connection: ServerConnection) -> None:
        pass

    async with serving(handler) as url:
        found = await probe(config(url.replace("ws:", "wss:")), OURS)
    assert not found.ok
    assert found.message.startswith("no TLS connection: ")


async def test_what_it_is_told_is_not_shown_as_it_is() -> None:
    async def handler(connection: ServerConnection) -> None:
        hello = {"type": "hello", "server": "x\x1b[2J\n" + "y" * 9000, "server_id": "1"}
        await connection.send(json.dumps(hello))
        await connection.send('{"type":"ack","id":1}')
        await connection.wait_closed()

    message = (await answering(handler)).message
    assert message.startswith("connects and authenticates at 'x [2J yyy")
    assert message.isprintable()
    assert len(message) <= 500


# Nobody


async def test_nobody_there_is_told_by_its_kind() -> None:
    for url, message in (
        ("ws://nobody.invalid/", "'nobody.invalid' is not known"),
        (f"ws://{HOST}:{free_port()}/", "cannot be reached: connection refused"),
        ("ws://169.254.169.254/", "link-local"),
        ("ftp://b.example/", "must begin with ws://"),
    ):
        found = await probe(config(url), OURS)
        assert not found.ok
        assert message in found.message


async def test_many_are_tested_at_once_and_from_within_a_running_loop() -> None:
    """None of twenty is answered before all have come."""
    met: list[ServerConnection] = []
    all_there = asyncio.Event()

    async def handler(connection: ServerConnection) -> None:
        met.append(connection)
        if len(met) == 20:
            all_there.set()
        await all_there.wait()
        await connection.send('{"type":"hello","server_id":"1"}')
        await connection.send('{"type":"ack","id":1}')
        await connection.wait_closed()

    async with serving(handler) as url:
        # This thread's loop serves meanwhile; the other has one too, as pytest's does.
        found = await asyncio.to_thread(probe_all, [config(url)] * 20, OURS)
    assert all(each.ok for each in found)


async def test_it_can_be_called_where_a_loop_runs() -> None:
    """As under an async server, whose sync views have no loop, and in notebooks and tests, which have."""
    [found] = probe_all([config("ws://169.254.169.254/")], OURS)
    assert not found.ok
