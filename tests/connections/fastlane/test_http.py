"""The bounds of the fast lane's HTTP protocol: sizes and timeouts."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from dwsps_channels.connections.fastlane import http
from dwsps_channels.connections.fastlane.http import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_PIPELINED,
    HttpProtocol,
)
from dwsps_channels.connections.fastlane.loop import new_loop
from dwsps_channels.connections.fastlane.opening import OpeningProtocol
from tests.connections.fastlane.pipe import Pipe
from tests.connections.fastlane.raw import RawClient, raw_client
from tests.connections.transports.contract import turns, until
from tests.processes import Server, ServerFactory
from tests.wire.raw import MIB

GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"


class HttpConnection:
    """A client that has connected to ``application`` by HTTP, without a network."""

    def __init__(self, application: Callable[..., Any]) -> None:
        config = Config(application, interface="asgi3", proxy_headers=False, log_config=None)
        config.load()
        self.pipe = Pipe()
        self.protocol = HttpProtocol(config, ServerState(), {})
        self.pipe.protocol = self.protocol  # type: ignore[assignment]
        self.protocol.connection_made(self.pipe)

    def send(self, data: bytes) -> None:
        self.protocol.data_received(data)

    @property
    def received(self) -> bytes:
        return b"".join(self.pipe.written)

    async def is_ended(self) -> None:
        await until(lambda: self.pipe.closing or self.pipe.eof)


async def ok(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body, and answers with its length."""
    length, more = 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        length += len(event["body"])
        more = event["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % length})


@pytest.fixture
async def connection() -> HttpConnection:
    return HttpConnection(ok)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 0.05)


class TestHead:
    @pytest.mark.parametrize(
        "head",
        [
            b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
            b"GET /?" + b"a&" * (MAX_HEAD_BYTES // 2) + b" HTTP/1.1\r\n\r\n",
            GET + b"X: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",
            GET + b"X:\r\n" * MAX_HEADERS + b"\r\n",
        ],
        ids=["path", "query", "header", "headers"],
    )
    @pytest.mark.parametrize("size", [100, 10_000, MIB])
    async def test_what_is_too_large_is_refused_wherever_it_is_cut(
        self, connection: HttpConnection, head: bytes, size: int
    ) -> None:
        for start in range(0, len(head), size):
            connection.send(head[start : start + size])
        assert connection.received.startswith(b"HTTP/1.1 431 "), connection.received
        assert connection.received.count(b"HTTP/1.1") == 1
        assert connection.pipe.eof

    async def test_it_is_refused_before_it_ends(self, connection: HttpConnection) -> None:
        connection.send(GET + b"X: ")
        for _ in range(MAX_HEAD_BYTES // 1000 + 1):
            connection.send(b"a" * 1000)
        assert connection.received.startswith(b"HTTP/1.1 431 ")
        for _ in range(http.LINGER_BYTES // MIB + 1):
            assert not connection.pipe.aborted
            connection.send(b"a" * MIB)
        assert connection.pipe.aborted

    async def test_what_is_large_and_within_the_bounds_is_served(
        self, connection: HttpConnection
    ) -> None:
        headers = b"".join(b"X: " + b"a" * 600 + b"\r\n" for _ in range(MAX_HEADERS - 2))
        connection.send(GET + headers + b"\r\n")
        await until(lambda: b"200 OK" in connection.received)

    async def test_a_body_and_the_next_request_are_not_the_head_s(
        self, connection: HttpConnection
    ) -> None:
        body = b"x" * 1_000_000
        post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
        for _ in range(3):
            connection.send(post + body)
        await until(lambda: connection.received.count(b"1000000") == 3)

    async def test_few_requests_may_wait_for_the_answer_to_another(
        self, connection: HttpConnection
    ) -> None:
        connection.send((GET + b"\r\n") * (MAX_PIPELINED + 1))
        await until(lambda: connection.received.count(b"200 OK") == MAX_PIPELINED + 1)
        connection.send((GET + b"\r\n") * 5000)
        assert len(connection.protocol.pipeline) == MAX_PIPELINED
        await connection.is_ended()
        assert b"429" not in connection.received  # it would be taken for another one's answer

    async def test_trailers_are_bounded_too(self, connection: HttpConnection) -> None:
        connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.send(b"1\r\nx\r\n0\r\nX: ")
        for _ in range(MAX_HEAD_BYTES // 1000 + 1):
            connection.send(b"a" * 1000)
        assert connection.received.startswith(b"HTTP/1.1 431 ")
        await turns()


@pytest.mark.usefixtures("impatient")
class TestTime:
    async def test_a_head_that_does_not_end(self, connection: HttpConnection) -> None:
        connection.send(b"GET /")
        async with asyncio.timeout(30):
            while not connection.received:
                connection.send(b"a")
                await asyncio.sleep(0.01)
        assert connection.received.startswith(b"HTTP/1.1 408 ")
        await connection.is_ended()

    async def test_a_connection_on_which_nothing_comes_is_closed(
        self, connection: HttpConnection
    ) -> None:
        await connection.is_ended()
        assert connection.received == b""

    async def test_a_body_that_does_not_come(self, connection: HttpConnection) -> None:
        connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        await connection.is_ended()
        assert connection.received.startswith(b"HTTP/1.1 408 ")
        await until(lambda: not connection.protocol.tasks)  # the application has ended

    async def test_a_body_that_comes_has_the_time_that_it_takes(
        self, connection: HttpConnection
    ) -> None:
        connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(10):
            # For which it has 20 s more.
            connection.send(b"x" * 10_000)
            await asyncio.sleep(http.HEAD_TIMEOUT / 5)
        await until(lambda: connection.received.endswith(b"\r\n0\r\n\r\n"))
        assert b"200 OK" in connection.received

    async def test_a_further_request_on_the_connection(self, connection: HttpConnection) -> None:
        connection.send(GET + b"\r\n")
        await until(lambda: b"200 OK" in connection.received)
        connection.send(b"GET / HT")
        await until(lambda: b"HTTP/1.1 408 " in connection.received)

    async def test_line_breaks_before_the_next_request_do_not_keep_the_connection(
        self, connection: HttpConnection
    ) -> None:
        connection.send(GET + b"\r\n")
        await until(lambda: connection.received.endswith(b"0\r\n\r\n"))
        connection.send(b"\r\n")
        await connection.is_ended()

    async def test_an_answer_that_takes_long_is_the_application_s_affair(self) -> None:
        go = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await go.wait()
            await ok(scope, receive, send)

        connection = HttpConnection(slow)
        connection.send(GET + b"\r\n")
        assert connection.protocol._timer is None
        go.set()
        await until(lambda: b"200 OK" in connection.received)

    async def test_what_the_application_has_not_taken_is_not_the_client_s_fault(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await go.wait()
            await ok(scope, receive, send)

        connection = HttpConnection(slow)
        size = 100_000
        connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        connection.send(b"x" * (size - 1))
        assert not connection.pipe.is_reading()
        timers: set[object] = set()
        async with asyncio.timeout(30):
            while len(timers) < 3:  # it has looked, and waits on
                timers.add(connection.protocol._timer)
                await asyncio.sleep(0.01)
        monkeypatch.setattr(http, "HEAD_TIMEOUT", 10.0)  # for what is left, on a busy machine
        go.set()
        await until(lambda: connection.pipe.is_reading())
        connection.send(b"x")
        await until(lambda: b"200 OK" in connection.received)


def test_the_loop_leaves_another_http_protocol_alone() -> None:
    made: list[type] = []

    class Other(HttpToolsProtocol):
        pass

    for chosen, expected in ((HttpToolsProtocol, OpeningProtocol), (Other, Other)):
        made.append(_made_by_the_loop(chosen))
        assert made[-1] is expected


def _made_by_the_loop(chosen: type[asyncio.Protocol]) -> type:
    config = Config(ok, http=chosen, log_config=None)
    config.load()
    found: list[type] = []

    def factory() -> asyncio.BaseProtocol:
        protocol = config.http_protocol_class(config, ServerState(), {})  # type: ignore[call-arg]
        found.append(type(protocol))
        return protocol

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: bool(found))
        writer.close()
        server.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(serve())
    return found[-1]


class TestServer:
    """Started as docs/how-to/deployment.md says, without a word of the bounds."""

    def test_ten_mebibytes_of_head_are_refused_and_not_held(
        self, start_server: ServerFactory
    ) -> None:
        server = start_server("fastlane")
        with raw_client(server.port) as other:
            other.open("/")
            assert other.is_alive()
            before = server.rss()
            for head in (
                b"GET /?" + b"a&" * (5 * MIB),
                GET + b"X: " + b"a" * (10 * MIB),
                GET + b"X:\r\n" * (10 * MIB // 4),
                GET + b"Cookie: " + b"a=1; " * (2 * MIB),
            ):
                with raw_client(server.port) as client:
                    client.send(head)
                    assert client.response()[0] == 431
                    assert other.is_alive()
            assert server.rss() - before < 10 * MIB
        assert "Traceback" not in server.log

    def test_handshakes_and_requests_that_do_not_end_are_ended(
        self, start_server: ServerFactory
    ) -> None:
        server = start_server(
            "fastlane", application="tests.connections.fastlane.impatient:application"
        )
        post = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n"
        with (
            slow(server, GET + b"Upgrade: websocket\r\n") as head,
            slow(server, post) as body,
            slow(server, b"") as nothing,
        ):
            assert head.rest().startswith(b"HTTP/1.1 408 ")
            assert body.rest().startswith(b"HTTP/1.1 408 ")
            assert nothing.rest() == b""


@contextmanager
def slow(server: Server, begin: bytes) -> Iterator[RawClient]:
    """A client that sends this much, and no more."""
    with raw_client(server.port) as client:
        client.send(begin)
        yield client
