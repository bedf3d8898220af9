"""One client that sends as fast as it can, and what it leaves to the others."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial

import pytest
from websockets.sync.client import connect

from tests.processes import HOST, Child, Server, ServerFactory, wait_until
from tests.wire.client import WireClient, connected
from tests.wire.raw import MIB, masked, raw_websocket, read_to_the_end

# A flood of as many publishes as the server handles in about a second, and how many answers another client gets at least
# before the last of them is answered. Measured, it gets 25, 120 and 200; without turns 8, 18 and at most 1.
FLOODS = {"daphne": (10_000, 14), "uvicorn": (20_000, 40), "fastlane": (60_000, 40)}

MAX_FLOODS = 5

PUBLISH = masked(b'{"type":"publish","topic":"flood","message":1}')
PING = b"\x89\x80\0\0\0\0"

only_fastlane = pytest.mark.parametrize("server_kind", ["fastlane"], indirect=True, scope="module")


@contextmanager
def flood(server: Child, frame: bytes, count: int) -> Iterator[threading.Event]:
    """Send ``frame`` ``count`` times; the event is set once what comes behind them is answered."""
    with raw_websocket(server.port) as connection:
        ended = threading.Event()

        def read() -> None:
            tail = b""
            while b'"id":"last"' not in tail:
                data = connection.recv(MIB)
                assert data, "the flood was closed"
                tail = tail[-20:] + data
            ended.set()

        reading = threading.Thread(target=read)
        reading.start()
        last = masked(b'{"type":"unsubscribe","topic":"flood","id":"last"}')
        sending = threading.Thread(
            target=partial(connection.sendall, frame * count + last),
        )
        sending.start()
        try:
            yield ended
        finally:
            sending.join()
            reading.join()


def gets_answers(server: Child, frame: bytes, count: int, *, least: int) -> None:
    """Flood the server with ``frame``; another client gets ``least`` answers, one after the other, before the flood has its last.

    If this process stood still meanwhile, it gets none, fair as the server may be: so there are a few floods.
    """
    request = json.dumps({"type": "unsubscribe", "topic": "calm"})
    answers: list[int] = []
    with connect(f"ws://{HOST}:{server.port}", compression=None) as other:
        while not answers or (answers[-1] < least and len(answers) < MAX_FLOODS):
            answers.append(0)
            with flood(server, frame, count) as ended:
                while not ended.is_set():
                    other.send(request)
                    other.recv(timeout=30)
                    answers[-1] += 1
    assert answers[-1] >= least, answers


def test_publishes_without_a_pause_leave_the_others_their_turns(
    server: Server, server_kind: str
) -> None:
    count, least = FLOODS[server_kind]
    gets_answers(server, PUBLISH, count, least=least)


@only_fastlane
def test_so_do_pings_on_the_fast_lane(server: Server) -> None:
    """On the others they are the server's own affair, as it answers them itself."""
    gets_answers(server, PING, 200_000, least=40)


async def test_publishers_that_are_ahead_of_their_readers_are_slowed(
    start_server: ServerFactory, server_kind: str
) -> None:
    """The readers read all the time, though slower than is sent: none of them is closed as a slow consumer."""
    server = start_server(server_kind, dwsps={"MAX_BUFFERED_BYTES": 512 * 1024})
    publishers, count, readers = 6, 1000, 2
    async with AsyncExitStack() as stack:
        reading = []
        for _ in range(readers):
            connection = socket.create_connection((HOST, server.port))
            # Little is to wait in the kernel.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            client = await stack.enter_async_context(connected(server.url, sock=connection))
            await client.subscribe("ahead")
            reading.append(asyncio.create_task(_read(client, publishers * count)))
        publishing = []
        for name in range(publishers):
            publishes = b"".join(
                masked(
                    b'{"type":"publish","topic":"ahead","message":[%d,%d,"%s"]}'
                    % (name, number, b"x" * 1000)
                )
                for number in range(count)
            )
            publisher = stack.enter_context(raw_websocket(server.port))
            publishing.append(asyncio.to_thread(_publish, publisher, publishes, count))
        acked = asyncio.gather(*publishing)
        for received in await asyncio.gather(*reading):
            for name in range(publishers):
                assert [number for by, number in received if by == name] == list(range(count))
        assert await acked == [count] * publishers


async def _read(client: WireClient, count: int) -> list[tuple[int, int]]:
    """The received messages with their publishers, in order."""
    messages = [(await client.receive(30))["message"] for _ in range(count)]
    return [(by, number) for by, number, _ in messages]


def _publish(connection: socket.socket, publishes: bytes, count: int) -> int:
    """Send ``publishes`` without a pause; how many were acknowledged."""
    sending = threading.Thread(target=partial(connection.sendall, publishes))
    sending.start()
    acked, tail = 0, b""
    while acked < count and (data := connection.recv(MIB)):
        tail += data
        acked += tail.count(b'"type":"ack"')
        tail = tail[-len(b'"type":"ack"') + 1 :]
    sending.join()
    return acked


def test_a_client_that_goes_on_above_its_rate_is_closed(
    start_server: ServerFactory, server_kind: str
) -> None:
    _is_closed(start_server(server_kind, dwsps=SLOW), PUBLISH)


@only_fastlane
def test_pings_count_there(start_server: ServerFactory, server_kind: str) -> None:
    _is_closed(start_server(server_kind, dwsps=SLOW), PING)


SLOW = {"RATE_LIMIT": 20, "RATE_BURST": 5}


def _is_closed(server: Server, frame: bytes) -> None:
    with raw_websocket(server.port) as connection:
        connection.sendall(frame * 3000)
        told = read_to_the_end(connection)
    assert told[-4:] == b"\x88\x02" + (4102).to_bytes(2, "big")
    assert b'"code":"rate_limited"' in told
    wait_until(lambda: server.log.count("it kept sending above its rate") == 1)
