"""The first bytes of a connection open a websocket, or are answered as ``HttpProtocol`` alone would answer them."""

import asyncio
import gc
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.config import Config
from uvicorn.server import ServerState

from dwsps_channels.connections.fastlane import http, opening
from dwsps_channels.connections.fastlane.http import MAX_HEAD_BYTES, MAX_HEADERS, HttpProtocol
from dwsps_channels.connections.fastlane.opening import OpeningProtocol
from dwsps_channels.connections.fastlane.protocol import WebSocketProtocol
from tests.connections.fastlane.pipe import Pipe
from tests.connections.fastlane.raw import ACCEPT, KEY, TEXT, frame
from tests.connections.transports.contract import turns, until

HANDSHAKE = (
    b"GET /a%20b/?c=d HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Version: 13\r\nCookie: a=\xe2\x98\x83; b\r\n"
    b"Origin:http://example.com \r\nX-Empty:\r\n\r\n"
)


class Opened:
    """A connection on which ``made`` speaks first, to an application that accepts all and answers with its scope."""

    def __init__(
        self, made: type[OpeningProtocol | HttpProtocol], ws: type[asyncio.Protocol] | None
    ) -> None:
        config = Config(
            self.application,
            interface="asgi3",
            proxy_headers=False,
            log_config=None,
            ws=ws or "none",
        )
        config.load()
        self.state = ServerState()
        self.scopes: list[Any] = []
        self.pipe = Pipe()
        protocol = made(config, self.state, {})
        self.pipe.protocol = protocol  # type: ignore[assignment]
        protocol.connection_made(self.pipe)

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append({name: value for name, value in scope.items() if name != "extensions"})
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            while (await receive())["type"] != "websocket.disconnect":
                pass
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})

    def send(self, data: bytes) -> None:
        self.protocol.data_received(data)

    @property
    def protocol(self) -> Any:
        """The present one."""
        return self.pipe.protocol

    @property
    def connections(self) -> set[Any]:
        """As uvicorn counts them."""
        return cast(set[Any], self.state.connections)

    @property
    def answer(self) -> bytes:
        return b"".join(self.pipe.written)


def connect(
    made: type[OpeningProtocol | HttpProtocol] = OpeningProtocol,
    ws: type[asyncio.Protocol] | None = WebSocketProtocol,
) -> Opened:
    return Opened(made, ws)


def changed(old: bytes, new: bytes) -> bytes:
    assert HANDSHAKE.count(old) == 1
    return HANDSHAKE.replace(old, new)


@pytest.fixture
def no_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ``HttpProtocol`` may not be made."""
    monkeypatch.setattr(opening, "HttpProtocol", None)


@pytest.mark.usefixtures("no_http")
async def test_a_handshake_needs_no_http_parser() -> None:
    connection = connect()
    connection.send(HANDSHAKE)
    await until(lambda: b"\r\n\r\n" in connection.answer)
    assert connection.answer.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: " + ACCEPT in connection.answer
    assert isinstance(connection.protocol, WebSocketProtocol)
    assert connection.connections == {connection.protocol}


NO_HANDSHAKES = {
    "a page": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a form": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na=b",
    "HTTP 1.0": changed(b"HTTP/1.1", b"HTTP/1.0"),
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "another method": changed(b"GET", b"POST"),
    "a whole URL": changed(b"/a%20b/", b"http://example.com/a%20b/"),
    "a space in the path": changed(b"/a%20b/", b"/a b/"),
    "no ASCII in the path": changed(b"/a%20b/", b"/\xe2\x98\x83/"),
    "no name": changed(b"X-Empty:", b":"),
    "no colon": changed(b"X-Empty:", b"X-Empty"),
    "a space in a name": changed(b"X-Empty:", b"X Empty:"),
    "a space after a name": changed(b"X-Empty:", b"X-Empty :"),
    "a control character": changed(b"X-Empty:", b"X-Empty: \x01"),
    "a null": changed(b"X-Empty:", b"X-Empty: \0"),
    "a folded line": changed(b"X-Empty:", b"X-Empty: a\r\n b"),
    "a line feed alone": changed(b"X-Empty:\r\n", b"X-Empty:\n"),
    "a carriage return alone": changed(b"X-Empty:", b"X-Empty: a\rb"),
    "line breaks before it": b"\r\n" + HANDSHAKE,
    "more behind it": HANDSHAKE + frame(TEXT, b"early"),
    "a body": changed(b"X-Empty:", b"Content-Length: 3") + b"abc",
    "no body": changed(b"X-Empty:", b"Content-Length: 0"),
    "chunks": changed(b"X-Empty:", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "an expectation": changed(b"X-Empty:", b"Expect: 100-continue"),
    "no host": changed(b"Host: example.com\r\n", b""),
    "two hosts": changed(b"X-Empty:", b"Host: example.org"),
    "no upgrade": changed(b"Upgrade: websocket\r\n", b""),
    "another upgrade": changed(b"Upgrade: websocket", b"Upgrade: h2c"),
    "no connection": changed(b"Connection: Upgrade\r\n", b""),
    "another connection": changed(b"Connection: Upgrade", b"Connection: keep-alive"),
    "two connections": changed(b"X-Empty:", b"Connection: close"),
    "a tab after it": changed(b"Upgrade: websocket", b"Upgrade: websocket\t"),
    "two upgrades": changed(b"X-Empty:", b"Upgrade: h2c"),
    "upgrades in one line": changed(b"Upgrade: websocket", b"Upgrade: websocket, h2c"),
    "another version": changed(b"Version: 13", b"Version: 8"),
    "no key": changed(KEY, b""),
    "many headers": changed(b"X-Empty:\r\n", b"X-Empty:\r\n" * MAX_HEADERS),
    "a large header": changed(b"X-Empty:", b"X-Empty: " + b"a" * MAX_HEAD_BYTES),
}
HANDSHAKES = {
    "plain": HANDSHAKE,
    "two subprotocols": changed(b"X-Empty:", b"Sec-WebSocket-Protocol: one, two"),
    "two lines of a list": changed(b"Connection: Upgrade", b"Connection: a\r\nConnection: Upgrade"),
    "a list in one line": changed(b"Connection: Upgrade", b"connection: keep-alive, upgrade"),
    "another case": changed(b"Upgrade: websocket", b"UPGRADE:WebSocket"),
    "many headers that fit": changed(b"X-Empty:\r\n", b"X-Empty:\r\n" * (MAX_HEADERS - 7)),
    "a large header that fits": changed(b"X-Empty:", b"X-Empty: " + b"a" * (MAX_HEAD_BYTES - 300)),
}


@pytest.mark.parametrize("request_", NO_HANDSHAKES.values(), ids=NO_HANDSHAKES)
async def test_any_other_request_is_answered_as_without_it(request_: bytes) -> None:
    await check_answers(request_)


@pytest.mark.parametrize("request_", HANDSHAKES.values(), ids=HANDSHAKES)
async def test_a_handshake_is_answered_as_without_it(request_: bytes) -> None:
    connection = await check_answers(request_)
    assert connection.answer.startswith(b"HTTP/1.1 101 ")


@given(
    start=st.integers(0, len(HANDSHAKE)),
    size=st.integers(0, 3),
    new=st.binary(max_size=3) | st.text("\r\n:; GETHTP/1.0,", max_size=4).map(str.encode),
)
def test_a_request_that_is_changed_anywhere_is_answered_as_without_it(
    start: int, size: int, new: bytes
) -> None:
    asyncio.run(check_answers(HANDSHAKE[:start] + new + HANDSHAKE[start + size :]))


async def check_answers(request: bytes) -> Opened:
    connection, other = connect(OpeningProtocol), connect(HttpProtocol)
    for each in (connection, other):
        each.send(request)
        # Far more than any answer takes: there may be none.
        for _ in range(10):
            await turns()
    assert connection.answer == other.answer
    assert connection.scopes == other.scopes
    assert connection.pipe.closing == other.pipe.closing
    assert connection.pipe.eof == other.pipe.eof
    assert type(connection.protocol) is type(other.protocol)
    assert len(connection.connections) == len(other.connections)
    return connection


@pytest.mark.parametrize("size", [1, 7, len(HANDSHAKE) - 1])
async def test_a_handshake_may_come_in_pieces(size: int) -> None:
    connection = connect()
    for start in range(0, len(HANDSHAKE), size):
        connection.send(HANDSHAKE[start : start + size])
    await until(lambda: connection.answer.startswith(b"HTTP/1.1 101 "))


async def test_without_our_websocket_protocol_uvicorn_decides() -> None:
    connection = connect(ws=None)
    connection.send(HANDSHAKE)
    await until(lambda: b"served" in connection.answer)


async def test_a_connection_on_which_nothing_comes_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 0.05)
    connection = connect()
    await until(lambda: connection.pipe.closing)
    await turns()
    assert connection.answer == b""
    assert not connection.connections


async def test_the_time_for_a_head_begins_with_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 30.0)
    connection = connect()
    timer = connection.protocol._timer
    await asyncio.sleep(0.01)  # the clock goes on
    connection.send(HANDSHAKE[:20])
    assert timer.cancelled()
    assert connection.protocol._timer.when() == pytest.approx(timer.when(), abs=0.001)


async def test_a_head_that_does_not_end_is_answered_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 0.05)
    connection = connect()
    connection.send(HANDSHAKE[:20])
    await until(lambda: connection.answer.startswith(b"HTTP/1.1 408 "))


async def test_a_server_that_goes_away_closes_it() -> None:
    connection = connect()
    (protocol,) = connection.connections
    protocol.shutdown()
    await turns()
    assert connection.pipe.closing
    assert not connection.connections


@pytest.mark.parametrize("size", [7, len(HANDSHAKE)], ids=["in pieces", "whole"])
async def test_an_open_websocket_keeps_nothing_of_its_opening(size: int) -> None:
    """Neither does garbage that refers to itself, of which every connection of a storm would leave some."""

    def left() -> int:
        # The exact type: ``isinstance`` would evaluate the lazy objects that other tests have left.
        kinds = (OpeningProtocol, HttpProtocol)
        return sum(type(each) in kinds for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = left()
        connection = connect()
        assert left() == before + 1
        for start in range(0, len(HANDSHAKE), size):
            connection.send(HANDSHAKE[start : start + size])
        await until(lambda: bool(connection.answer))
        assert left() == before
    finally:
        gc.enable()
