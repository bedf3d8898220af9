"""One connection: how it opens or does not, and how its end is noticed."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import pytest
import uvloop
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request
from websockets.server import ServerProtocol

from dwsps_channels.client import (
    AddressNotAllowed,
    Client,
    ConnectError,
    ConnectionClosed,
    NoToken,
    NotWebSocket,
    OpenTimeout,
    Redirected,
    Refused,
    TLSFailed,
    Unreachable,
    open_connection,
)
from dwsps_channels.client import connection as module
from tests.client.scripted import ScriptedServer, response
from tests.processes import HOST, free_port, require, wait_until_async

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def tcp_server(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that does as ``handler`` says, and its port. Ends its connections at the end."""
    writers = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await handler(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, HOST, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()
        await wait_until_async(lambda: all(writer.transport.is_closing() for writer in writers))
        for _ in range(3):  # so that handlers come to their end
            await asyncio.sleep(0)


class Swallower:
    """A TCP proxy that, once told so, passes nothing on, in either direction."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.swallows = False

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(HOST, self.port)
        try:
            await asyncio.gather(self._pass(reader, there_writer), self._pass(there_reader, writer))
        finally:
            there_writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.swallows:
                writer.write(data)
        if not self.swallows:
            writer.close()


async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> ServerProtocol:
    """Answer a handshake, and no ping ever."""
    protocol = ServerProtocol()
    protocol.receive_data(await reader.readuntil(b"\r\n\r\n"))
    [request] = protocol.events_received()
    assert isinstance(request, Request)
    protocol.send_response(protocol.accept(request))
    writer.write(b"".join(protocol.data_to_send()))
    return protocol


async def test_frames_go_out_and_in(scripted: ScriptedServer) -> None:
    async with open_connection(scripted.url, headers={"X-Mine": "1"}, token="abc") as connection:
        await connection.send(b'{"type":"publish","id":1,"topic":"\xe2\x98\x83","message":1}')
        assert b'"ack"' in await connection.receive()
        await connection.send('{"type":"publish","id":2,"topic":"a","message":2}')
        async for frame in connection:
            assert b'"id": 2' in frame
            break
    [request] = scripted.requests
    assert (request.headers["X-Mine"], request.headers["Authorization"]) == ("1", "Bearer abc")
    assert "Sec-WebSocket-Extensions" not in request.headers  # no compression
    await wait_until_async(lambda: not scripted.sessions)


PING = b"\x89\x00"
TEXT = b"\x81\x04done"


@pytest.mark.parametrize(
    "new_loop", [asyncio.SelectorEventLoop, pytest.param(uvloop.new_event_loop, id="uvloop")]
)
def test_a_flood_leaves_others_their_turns(
    new_loop: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONTROL_BURST", 10**9)
    monkeypatch.setattr(module, "TURN_INTERVAL", 0.0)
    in_turn = most = total = 0
    handle = module._WebSocket.process_event

    def count(self: module._WebSocket, event: object) -> None:
        nonlocal in_turn, most, total
        in_turn, total = in_turn + 1, total + 1
        most = max(most, in_turn)
        handle(self, event)

    monkeypatch.setattr(module._WebSocket, "process_event", count)

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept(reader, writer)
        writer.write(PING * 100_000 + TEXT)
        await reader.read()

    async def others() -> None:
        nonlocal in_turn
        while True:
            in_turn = 0
            await asyncio.sleep(0)

    async def run() -> None:
        other = asyncio.create_task(others())
        async with tcp_server(flood) as port, open_connection(f"ws://{HOST}:{port}/") as connection:
            assert await connection.receive() == b"done"
            connection.abort("enough")
        other.cancel()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())
    assert total > 100_000
    assert most <= module.SLICE_BYTES


async def test_a_server_that_does_nothing_but_ping_is_left() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept(reader, writer)
        writer.write(PING * 200_000)
        await reader.read()  # until it is left

    async with tcp_server(flood) as port, open_connection(f"ws://{HOST}:{port}/") as connection:
        with pytest.raises(ConnectionClosed, match="more than 100 pings a second"):
            await connection.receive()


async def test_messages_of_any_size_come_whole_and_in_order(scripted: ScriptedServer) -> None:
    sizes = [0, 1, 125, 126, 1000, 1024, 1025, 70_000, 3, 2_000_000, 5]

    async def welcome(session: ServerConnection) -> None:
        for number, size in enumerate(sizes):
            await session.send(str(number % 10) * size)

    scripted.welcome = welcome
    async with open_connection(scripted.url) as connection:
        for number, size in enumerate(sizes):
            assert await connection.receive() == str(number % 10).encode() * size


async def test_who_closed_is_known(scripted: ScriptedServer) -> None:
    async def welcome(session: ServerConnection) -> None:
        await session.send("x" * 2000)
        await session.close(1009, "the server's")

    scripted.welcome = welcome
    for max_size, by_server in ((5000, True), (1000, False)):
        async with open_connection(scripted.url, max_size=max_size) as connection:
            if by_server:
                await connection.receive()
            with pytest.raises(ConnectionClosed) as caught:
                await connection.receive()
            assert (caught.value.code, caught.value.by_server) == (1009, by_server)


async def test_environment_proxies_are_not_used(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{HOST}:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    async with open_connection(scripted.url):
        pass


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 503])
async def test_status_says_that_it_is_refused(scripted: ScriptedServer, status: int) -> None:
    scripted.answer = lambda request: response(HTTPStatus(status))
    with pytest.raises(Refused, match=f"HTTP {status}") as caught:
        async with open_connection(scripted.url + "?token=secret"):
            pass
    assert (caught.value.status, caught.value.url) == (status, scripted.url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_not_followed(scripted: ScriptedServer, status: int) -> None:
    other = await ScriptedServer().start()
    try:
        for location in (other.url, "/elsewhere"):
            scripted.answer = lambda request, location=location: response(  # type: ignore[misc]
                HTTPStatus(status), Location=f"{location}?token=secret"
            )
            with pytest.raises(Redirected, match="redirects are not followed") as caught:
                async with open_connection(scripted.url, token="secret"):
                    pass
            assert (caught.value.status, caught.value.location) == (status, location)
        assert other.requests == []
    finally:
        await other.stop()


async def test_nobody_listens() -> None:
    with pytest.raises(Unreachable, match="cannot be reached: connection refused"):
        async with open_connection(f"ws://{HOST}:{free_port()}/"):
            pass


async def test_second_address_of_a_host_is_tried(scripted: ScriptedServer) -> None:
    """The server listens on 127.0.0.1 alone; a host may stand for ::1 before it."""
    async with open_connection(f"ws://localhost:{scripted.port}/"):
        pass


async def test_link_local_hosts_are_not_connected_to() -> None:
    with pytest.raises(AddressNotAllowed):
        async with open_connection("ws://169.254.169.254/"):
            pass


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", NotWebSocket),
        (b"220 mail.example ESMTP\r\n", NotWebSocket),
        (b"\x00\x01\x02\r\n\r\n", NotWebSocket),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", NotWebSocket),
        (b"", Unreachable),
        (b"HTTP/1.1 101", Unreachable),
    ],
)
async def test_server_of_something_else_is_told_apart(
    answer: bytes, expected: type[ConnectError]
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with tcp_server(handler) as port:
        with pytest.raises(ConnectError) as caught:
            async with open_connection(f"ws://{HOST}:{port}/", open_timeout=30):
                pass
    assert type(caught.value) is expected


async def test_server_that_never_answers_times_out() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass

    async with tcp_server(handler) as port:
        with pytest.raises(OpenTimeout, match=r"no connection within 0\.1 s"):
            async with open_connection(f"ws://{HOST}:{port}/", open_timeout=0.1):
                pass


def self_signed(folder: Path) -> ssl.SSLContext:
    subprocess.run(
        [
            *(
                require("openssl"),
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ),
            *(
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost",
            ),
            *("-keyout", folder / "key.pem", "-out", folder / "certificate.pem"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


@pytest.mark.processes
async def test_tls_is_trusted_only_with_reason(scripted: ScriptedServer, tmp_path: Path) -> None:
    async with tcp_server(Swallower(scripted.port), self_signed(tmp_path)) as port:
        with pytest.raises(TLSFailed, match=r"certificate is not trusted: self.signed"):
            async with open_connection(f"wss://localhost:{port}/"):
                pass
        trusting = ssl.create_default_context(cafile=tmp_path / "certificate.pem")
        with pytest.raises(TLSFailed, match=r"certificate is not trusted: .*mismatch"):
            async with open_connection(f"wss://{HOST}:{port}/", ssl=trusting):
                pass
        async with open_connection(f"wss://localhost:{port}/", ssl=trusting) as connection:
            await connection.send('{"type":"publish","id":1,"topic":"a","message":1}')
            assert b'"ack"' in await connection.receive()


async def test_server_without_tls_is_no_server_for_wss(scripted: ScriptedServer) -> None:
    with pytest.raises(TLSFailed, match="no TLS connection"):
        async with open_connection(f"wss://{HOST}:{scripted.port}/"):
            pass


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: 1", "ü", 7, None])
async def test_token_that_no_header_can_carry_is_not_sent(
    scripted: ScriptedServer, token: object
) -> None:
    with pytest.raises(NoToken):
        async with open_connection(scripted.url, token=lambda: token):  # type: ignore[arg-type]
            pass
    assert scripted.requests == []


@pytest.mark.parametrize("headers", [{"a b": "c"}, {"": "c"}, {"a": "secret\r\nX: 1"}])
async def test_headers_that_would_break_the_request_are_refused(
    scripted: ScriptedServer, headers: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="header") as caught:
        Client(scripted.url, headers=headers)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "bye"), (3000, ""), (4001, "unauthorized"), (4200, "x")]
)
async def test_close_code_of_the_server_is_told(
    scripted: ScriptedServer, code: int, reason: str
) -> None:
    async with open_connection(scripted.url) as connection:
        await wait_until_async(lambda: scripted.sessions)
        await scripted.close(code, reason)
        with pytest.raises(ConnectionClosed) as caught:
            await connection.receive()
        assert (caught.value.code, caught.value.reason) == (code, reason)
        with pytest.raises(ConnectionClosed):
            await connection.send("{}")


async def test_connection_that_breaks_is_1006(scripted: ScriptedServer) -> None:
    async with open_connection(scripted.url) as connection:
        await wait_until_async(lambda: scripted.sessions)
        scripted.cut()
        with pytest.raises(ConnectionClosed) as caught:
            await connection.receive()
    assert caught.value.code == 1006


async def test_message_above_the_limit_closes_with_1009(scripted: ScriptedServer) -> None:
    async with open_connection(scripted.url, max_size=1000) as connection:
        await wait_until_async(lambda: scripted.sessions)
        await scripted.broadcast("x" * 1001)
        with pytest.raises(ConnectionClosed) as caught:
            await connection.receive()
    assert caught.value.code == 1009


async def test_heartbeats_measure_the_latency(scripted: ScriptedServer) -> None:
    async with open_connection(scripted.url, heartbeat=0.01) as connection:
        assert connection.latency is None
        latency = await wait_until_async(lambda: connection.latency)
        assert latency is not None
        assert 0 < latency < 5


async def test_server_that_is_gone_without_a_word_is_noticed(scripted: ScriptedServer) -> None:
    swallower = Swallower(scripted.port)
    async with (
        tcp_server(swallower) as port,
        open_connection(
            f"ws://{HOST}:{port}/", heartbeat=0.05, heartbeat_timeout=2.0
        ) as connection,
    ):
        await wait_until_async(lambda: connection.latency)
        swallower.swallows = True
        with pytest.raises(ConnectionClosed, match="no answer to a heartbeat") as caught:
            async with asyncio.timeout(30):
                await connection.receive()
        assert caught.value.code == 1006


async def test_server_that_is_gone_is_noticed_although_the_send_buffer_is_full() -> None:
    """The heartbeat itself cannot be written, then."""
    stopped = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept(reader, writer)
        await stopped.wait()  # and reads nothing

    async with (
        tcp_server(handler) as port,
        open_connection(
            f"ws://{HOST}:{port}/", heartbeat=0.05, heartbeat_timeout=0.1
        ) as connection,
    ):

        async def send_for_ever() -> None:
            while True:
                await connection.send("x" * 1_000_000)

        try:
            with pytest.raises(ConnectionClosed, match="no answer to a heartbeat"):
                await asyncio.wait_for(send_for_ever(), 30)
        finally:
            stopped.set()


async def test_server_that_only_talks_is_alive() -> None:
    """Its pongs may be behind a lot of other things."""
    quiet = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = await accept(reader, writer)
        while not quiet.is_set():
            protocol.send_text(b"still here")
            writer.write(b"".join(protocol.data_to_send()))
            await writer.drain()
            await asyncio.sleep(0.01)
        await reader.read(-1)

    async with (
        tcp_server(handler) as port,
        open_connection(
            f"ws://{HOST}:{port}/", heartbeat=0.05, heartbeat_timeout=2.0
        ) as connection,
    ):
        for _ in range(250):  # longer than both together
            assert await connection.receive() == b"still here"
        quiet.set()

        async def receive_for_ever() -> None:
            async for _ in connection:
                pass

        with pytest.raises(ConnectionClosed, match="no answer to a heartbeat"):
            await asyncio.wait_for(receive_for_ever(), 30)


async def test_reader_that_is_slow_does_not_make_the_server_dead(
    scripted: ScriptedServer,
) -> None:
    async with open_connection(scripted.url, heartbeat=0.05, heartbeat_timeout=2.0) as connection:
        await wait_until_async(lambda: scripted.sessions)
        for number in range(200):  # more than is taken in before it is read
            await scripted.broadcast(f"{number}")
        loop = asyncio.get_running_loop()
        until = loop.time() + 2.5
        await wait_until_async(lambda: loop.time() > until)
        assert [int(await connection.receive()) for _ in range(200)] == list(range(200))


async def test_close_of_a_connection_to_a_dead_server_does_not_wait_for_ever(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dwsps_channels.client.connection.CLOSE_TIMEOUT", 0.1)
    swallower = Swallower(scripted.port)
    async with (
        tcp_server(swallower) as port,
        asyncio.timeout(30),
        open_connection(f"ws://{HOST}:{port}/"),
    ):
        swallower.swallows = True


async def test_cancelled_while_it_opens_it_leaves_nothing() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        while await reader.read(1000):
            pass
        left.set()

    async def use(port: int) -> None:
        async with open_connection(f"ws://{HOST}:{port}/"):
            pass

    arrived, left = asyncio.Event(), asyncio.Event()
    async with tcp_server(handler) as port:
        opening = asyncio.create_task(use(port))
        await arrived.wait()
        opening.cancel()
        await asyncio.wait([opening])
        async with asyncio.timeout(30):
            await left.wait()
    assert opening.cancelled()
