"""Random frames: the server survives them, and logs nothing."""

import random
import socket

from tests.connections.fastlane.raw import raw_client
from tests.connections.websocket.random_frames import mutated, valid
from tests.processes import Server

FRAMES = 20_000
CONNECTIONS = 100


def test_random_frames_leave_the_server_alive_and_silent(server: Server) -> None:
    chance = random.Random(6455)
    each = FRAMES // CONNECTIONS
    pool = [valid(chance) for _ in range(2000)]
    for number in range(CONNECTIONS):
        with raw_client(server.port) as client:
            client.open(("/pubsub/", "/echo/")[number % 2])
            # Most of them right, so that what is not meets a connection in any state.
            sent = chance.choices(pool, k=each - 10) + [mutated(chance) for _ in range(10)]
            try:
                client.send(b"".join(sent))
                client.socket.shutdown(socket.SHUT_WR)
                client.rest()
            except (BrokenPipeError, ConnectionResetError):
                pass  # it had enough
    with raw_client(server.port) as client:
        client.open("/echo/")
        assert client.is_alive()
    assert server.exit_status is None
    assert "Traceback" not in server.log
    assert "ERROR" not in server.log
