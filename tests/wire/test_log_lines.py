"""Nothing that a client sends reaches a server's log with control characters, or at length."""

import socket

from tests.processes import HOST, Server, wait_until

EVIL = "\x9b31m\x85FAKE\xad"
"""C1 controls, which terminals obey, and a soft hyphen: what a header can carry of this kind."""


def handshake(server: Server, path: bytes, *headers: bytes) -> bytes:
    """Send a handshake with these headers as they are; what is answered."""
    with socket.create_connection((HOST, server.port), timeout=30) as connection:
        connection.sendall(
            b"GET %b HTTP/1.1\r\nHost: %b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
            % (path, f"{HOST}:{server.port}".encode())
            + b"".join(line + b"\r\n" for line in headers)
            + b"\r\n"
        )
        return connection.recv(4096)


def test_headers_and_urls_of_a_client(server: Server, server_kind: str) -> None:
    evil = EVIL.encode("latin-1")
    for path, headers in (
        (b"/ws/pubsub/", (b"Origin: http://" + evil,)),
        (b"/ws/pubsub/", (b"Origin: http://" + b"x" * 4_000,)),
        (b"/ws/pubsub/", (b"Origin: http://evil.example", b"X-Forwarded-For: " + evil)),
        (b"/ws/pubsub/", (b"Authorization: Bearer " + evil, b"X-Forwarded-For: " + evil)),
        (b"/ws/pubsub/?a=%9b%0a%1b", (b"Authorization: Bearer wrong",)),
        (b"/ws/pubsub/?token=%C2%9B31m%0AFAKE", ()),
        (b"/ws/pubsub/", (b"X-Forwarded-For: " + evil,)),
    ):
        answer = handshake(server, path, *headers)
        # 400: autobahn, and so Daphne, takes no header with these.
        assert answer[:12] in (b"HTTP/1.1 101", b"HTTP/1.1 400", b"HTTP/1.1 403"), (path, headers)
    wait_until(lambda: server.log.count("wrong secret") >= 2)
    lines = server.log.split("\n")
    if server_kind == "uvicorn":
        # Its own lines are not ours to change: they have X-Forwarded-For as it came.
        lines = [line for line in lines if "dwsps_channels" in line]
    for line in lines:
        assert line.isprintable(), repr(line)
        assert len(line) < 2_000
