"""The bytes that wait in the kernel."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from dwsps_channels.connections.transports.in_flight import bytes_in_kernel
from tests.connections.transports.contract import until


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection over TCP, as it is not the same for a pair of Unix sockets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
        with one, other:
            yield one, other


async def test_the_kernel_tells_what_was_not_read(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    one, other = pair
    assert bytes_in_kernel(one) == 0
    one.setblocking(False)
    sent = 0
    while True:
        try:
            sent += one.send(bytes(1 << 16))
        except BlockingIOError:
            break
    stuck = bytes_in_kernel(one)
    assert 0 < stuck <= sent
    received = 0
    while received < sent:
        received += len(await asyncio.to_thread(other.recv, 1 << 20))
    await until(lambda: bytes_in_kernel(one) == 0)
    one.close()
    assert bytes_in_kernel(one) == 0
    assert bytes_in_kernel(None) == 0
