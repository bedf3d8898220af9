"""Messages above the limit of a session, on a server: never held, and answered."""

from contextlib import ExitStack

import pytest

from tests.connections.fastlane.raw import CONTINUATION, TEXT, frame, raw_client
from tests.processes import Server, ServerFactory, wait_until
from tests.wire.raw import MIB, unread


@pytest.fixture(scope="module")
def app_server(start_shared_server: ServerFactory) -> Server:
    """The fast lane, with this app's consumer."""
    return start_shared_server("fastlane")


def test_unfinished_messages_are_not_held_and_are_refused_once_they_end(app_server: Server) -> None:
    """20 connections that each hold 4 MiB would be 80."""
    count, size = 20, 4 * MIB
    with ExitStack() as stack:
        clients = [stack.enter_context(raw_client(app_server.port)) for _ in range(count)]
        for client in clients:
            client.open("/")
            assert client.is_alive()
        before = app_server.rss()
        payload = b'{"type":"publish","topic":"a.b","message":"' + b"x" * size + b'","id":7}'
        whole = frame(TEXT, payload)
        halves = [
            frame(TEXT, payload[: size // 2], fin=False),
            frame(CONTINUATION, payload[size // 2 :]),
        ]
        ends = []
        for number, client in enumerate(clients):
            data = whole if number % 2 else b"".join(halves)
            client.send(data[:-1])
            ends.append(data[-1:])
        wait_until(lambda: unread(app_server.port) == 0, what="the server has read it all")
        assert app_server.rss() - before < 20 * MIB
        for client, end in zip(clients, ends, strict=True):
            client.send(end)
            error = client.receive().payload
            assert b'"code":"message_too_large"' in error
            assert b"the message has %d bytes, the limit is 65536" % len(payload) in error
            assert b'"action":"publish","topic":"a.b","id":7' in error
            assert client.is_alive()


def test_what_comes_after_it_is_handled(app_server: Server) -> None:
    with raw_client(app_server.port) as client:
        client.open("/")
        client.send(
            frame(TEXT, b"x" * MIB) + frame(TEXT, b'{"type":"subscribe","topic":"a","id":1}')
        )
        assert b"message_too_large" in client.receive().payload
        assert b'"ack"' in client.receive().payload
