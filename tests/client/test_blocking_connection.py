"""A connection without an event loop: what it does with a server, well-behaved or not."""

import asyncio
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import pytest
from websockets.asyncio.server import ServerConnection

from dwsps_channels.client.blocking_connection import BlockingConnection
from dwsps_channels.client.errors import (
    AddressNotAllowed,
    ConnectionClosed,
    NotWebSocket,
    Redirected,
    Refused,
    TLSFailed,
    Unreachable,
)
from tests.client.scripted import ScriptedServer, response
from tests.client.test_connection import Swallower, self_signed, tcp_server
from tests.client.test_secrecy import all_of
from tests.processes import HOST, free_port, wait_until_async

T = TypeVar("T")

TOKEN = "s3cret"
PUBLISH = b'{"type":"publish","id":1,"topic":"a","message":%s}'


def soon(seconds: float = 30.0) -> float:
    return monotonic() + seconds


async def in_thread(function: Callable[[], T]) -> T:
    return await asyncio.to_thread(function)


async def opened(url: str, seconds: float = 30.0) -> BlockingConnection:
    return await in_thread(
        lambda: BlockingConnection.open(url, token=lambda: TOKEN, deadline=soon(seconds))
    )


async def test_it_sends_and_receives(scripted: ScriptedServer) -> None:
    connection = await opened(scripted.url)
    assert scripted.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"

    def exchange() -> bytes:
        connection.send(PUBLISH % b'"\xe2\x98\x83"', soon())
        return connection.receive(soon())

    for _ in range(2):
        assert b'"ack"' in await in_thread(exchange)
    assert [frame["message"] for frame in scripted.frames] == ["☃", "☃"]
    assert connection.is_open()
    connection.close()
    await wait_until_async(lambda: not scripted.sessions)
    connection.close()


async def test_messages_in_pieces_and_pings_between_them(scripted: ScriptedServer) -> None:
    async def welcome(session: ServerConnection) -> None:
        async def pieces() -> Any:
            yield "in "
            await session.ping()
            yield "pieces"

        await session.send(pieces())
        await session.send(b"binary")
        await (await session.ping())
        await session.send("after the pong")

    scripted.welcome = welcome
    connection = await opened(scripted.url)
    received = [await in_thread(lambda: connection.receive(soon())) for _ in range(3)]
    assert received == [b"in pieces", b"binary", b"after the pong"]
    connection.close()


async def test_a_server_that_closes_is_noticed_before_something_is_sent(
    scripted: ScriptedServer,
) -> None:
    connection = await opened(scripted.url)
    await scripted.close(4200, "the server is going away")
    await wait_until_async(lambda: not connection.is_open())
    with pytest.raises(ConnectionClosed, match="4200: the server is going away"):
        connection.send(b"late", soon())
    with pytest.raises(ConnectionClosed, match="4200"):
        connection.receive(soon())
    connection.close()


async def test_so_is_one_that_dies(scripted: ScriptedServer) -> None:
    connections = [await opened(scripted.url) for _ in range(2)]
    receiving = asyncio.ensure_future(in_thread(lambda: connections[0].receive(soon())))
    await scripted.kill()
    with pytest.raises(ConnectionClosed, match="1006"):
        await receiving
    await wait_until_async(lambda: not connections[1].is_open())
    for connection in connections:
        connection.close()


async def test_nobody_is_waited_for_beyond_the_deadline(scripted: ScriptedServer) -> None:
    connection = await opened(scripted.url)
    with pytest.raises(TimeoutError):
        await in_thread(lambda: connection.receive(soon(0.05)))
    connection.close()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with tcp_server(silent) as port:
        with pytest.raises(TimeoutError):
            await opened(f"ws://{HOST}:{port}/", 0.05)
        with pytest.raises(TimeoutError):
            await opened(f"wss://{HOST}:{port}/", 0.05)


async def test_nor_one_that_does_not_read() -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(TimeoutError):  # nobody accepts it, so there is no handshake
            await opened(f"ws://{HOST}:{port}/", 0.05)


async def test_nor_one_that_takes_no_more_of_a_large_message(scripted: ScriptedServer) -> None:
    reading = asyncio.Event()

    async def welcome(session: ServerConnection) -> None:
        session.transport.pause_reading()
        await reading.wait()

    scripted.welcome = welcome
    connection = await opened(scripted.url)
    with pytest.raises(TimeoutError):
        await in_thread(lambda: connection.send(b"x" * 32_000_000, soon(0.1)))
    reading.set()
    connection.close()


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (response(HTTPStatus.FORBIDDEN), Refused, "HTTP 403"),
        (response(HTTPStatus.FOUND, Location="/else?token=s3cret"), Redirected, "leads to /else,"),
        (response(HTTPStatus.OK), NotWebSocket, "a web page"),
    ],
)
async def test_a_refusal_says_what_the_server_said(
    scripted: ScriptedServer, answer: Any, error: type[Exception], text: str
) -> None:
    scripted.answer = lambda request: answer
    with pytest.raises(error, match=text):
        await opened(scripted.url)


async def test_what_is_there_may_not_be_a_server_or_nobody_is_there() -> None:
    async def noise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"220 mail.example.com ESMTP\r\n\r\n")

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with tcp_server(noise) as port:
        with pytest.raises(NotWebSocket):
            await opened(f"ws://{HOST}:{port}/")
    async with tcp_server(silence) as port:
        with pytest.raises(Unreachable, match="closed during the handshake"):
            await opened(f"ws://{HOST}:{port}/")
    with pytest.raises(Unreachable, match="connection refused"):
        await opened(f"ws://{HOST}:{free_port()}/")
    with pytest.raises(Unreachable, match="not known"):
        await opened("ws://no-such-host.invalid/")
    with pytest.raises(AddressNotAllowed):
        await opened("ws://169.254.169.254/")


@pytest.mark.processes
async def test_tls_is_trusted_only_with_reason(
    scripted: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tcp_server(Swallower(scripted.port), self_signed(tmp_path)) as port:
        with pytest.raises(TLSFailed, match="certificate is not trusted"):
            await opened(f"wss://localhost:{port}/")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        connection = await opened(f"wss://localhost:{port}/")
        assert connection.is_open()
        await in_thread(lambda: connection.send(PUBLISH % b"1", soon()))
        assert b'"ack"' in await in_thread(lambda: connection.receive(soon()))
        connection.close()


async def test_the_token_is_in_no_log_and_no_error(
    scripted: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="dwsps_channels")
    (await opened(scripted.url)).close()
    scripted.answer = lambda request: response(
        HTTPStatus.UNAUTHORIZED, Echo=request.headers["Authorization"]
    )
    with pytest.raises(Refused) as raised:
        await opened(f"{scripted.url}?token={TOKEN}")
    assert TOKEN not in all_of(raised.value)
    ours = [each for each in caplog.records if each.name != "websockets.server"]
    assert TOKEN not in " ".join(each.getMessage() for each in ours)
