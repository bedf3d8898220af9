"""Memory that one anonymous client can make a server hold before a session sees anything: started as docs/how-to/deployment.md says."""

import contextlib
import socket
import zlib
from collections.abc import Iterator

import pytest

from tests.connections.fastlane.raw import RawClient, frame, raw_client
from tests.processes import HOST, Server, ServerFactory, wait_until
from tests.wire.raw import MIB, unread

CLIENTS = 20


@pytest.fixture
def other(server: Server) -> Iterator[RawClient]:
    """A client that is to notice nothing."""
    with raw_client(server.port) as client:
        client.open("/")
        assert client.is_alive()
        yield client
        assert client.is_alive()


def send_all(client: RawClient, data: bytes) -> None:
    """Send ``data``, or what the server takes of it before it ends the connection."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.send(data)


def test_messages_that_do_not_end(server: Server, other: RawClient) -> None:
    """They announce 15 MiB, which a plain uvicorn holds of each if it is not told otherwise."""
    before = server.rss()
    announced = frame(0x1, length=b"\x7f" + (15 * MIB).to_bytes(8, "big"))
    with contextlib.ExitStack() as stack:
        for _ in range(CLIENTS):
            client = stack.enter_context(raw_client(server.port))
            client.open("/")
            send_all(client, announced + b"x" * (2 * MIB))
        wait_until(lambda: unread(server.port) == 0, what="the server has read it all")
        assert server.rss() - before < 20 * MIB


def test_heads_that_do_not_end(server: Server, other: RawClient) -> None:
    before = server.rss()
    with contextlib.ExitStack() as stack:
        for _ in range(CLIENTS):
            client = stack.enter_context(raw_client(server.port))
            send_all(client, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * (2 * MIB))
        wait_until(lambda: unread(server.port) == 0, what="the server has read it all")
        assert server.rss() - before < 20 * MIB


def test_compressed_messages_are_no_larger(server: Server, other: RawClient) -> None:
    """16 MB of zeros are 16 KB on the wire. Only uvicorn's own websockets compress."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = compressor.compress(bytes(16_000_000)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    before = server.rss()
    with contextlib.ExitStack() as stack:
        for _ in range(CLIENTS):
            client = stack.enter_context(raw_client(server.port))
            client.open("/", Sec_WebSocket_Extensions="permessage-deflate")
            # Not the last of its message, so that the server goes on holding it.
            send_all(client, frame(0x1, packed, fin=False, reserved=4))
        wait_until(lambda: unread(server.port) == 0, what="the server has read it all")
        assert server.rss() - before < 2 * CLIENTS * MIB


def test_a_request_that_does_not_end_does_not_keep_the_server_from_ending(
    start_server: ServerFactory, server_kind: str
) -> None:
    # As documented, but for the five seconds.
    options = [] if server_kind == "daphne" else ["--timeout-graceful-shutdown", "1"]
    server = start_server(server_kind, *options)
    with raw_client(server.port) as client, socket.create_connection((HOST, server.port)) as begun:
        client.open("/")  # the app has started
        begun.sendall(b"POST /admin/login/ HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        wait_until(lambda: unread(server.port) == 0)
        assert server.terminate() == 0
