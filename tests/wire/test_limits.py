"""Limits and backpressure, against every server."""

import asyncio
import json
import socket
import threading

import pytest
from websockets.exceptions import ConnectionClosed

from tests.processes import Server, ServerFactory, wait_until_async
from tests.wire.client import RECEIVE_TIMEOUT, WireClient, connected
from tests.wire.raw import MIB, SlowReader, masked, raw_websocket


async def test_too_large_a_message_is_refused_and_the_session_lives(server: Server) -> None:
    async with connected(server.url) as client:
        answer = await client.call("publish", "news", message="x" * 65_536, id=1)
        assert (answer["code"], answer["id"]) == ("message_too_large", 1)
        assert "65536" in answer["reason"]
        await client.subscribe("news")
        await client.publish_and_receive("news", "x" * 65_000)


async def test_what_the_server_itself_refuses_to_read_ends_that_session_alone(
    server: Server,
) -> None:
    async with connected(server.url) as other, connected(server.url) as client:
        await other.subscribe("news")
        with pytest.raises(ConnectionClosed):
            await client.call(
                "publish", "news", message="x" * (17 * MIB)
            )  # Daphne takes 1 MiB, uvicorn 16
        await other.publish_and_receive("news", 1)


async def test_subscriptions_are_limited(start_server: ServerFactory, server_kind: str) -> None:
    server = start_server(server_kind, dwsps={"MAX_SUBSCRIPTIONS": 3, "MAX_SUBSCRIPTION_BYTES": 5})
    async with connected(server.url) as client:
        for topic in ("a", "b", "c", "a"):
            await client.subscribe(topic)
        assert (await client.call("subscribe", "d"))["code"] == "too_many_subscriptions"
        await client.call("unsubscribe", "a")
        assert (await client.call("subscribe", "☃☃"))["code"] == "too_many_subscriptions"
        await client.subscribe("☃")


async def test_rate_is_limited_where_it_is_asked_for(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(server_kind, dwsps={"RATE_LIMIT": 20, "RATE_BURST": 5})
    async with connected(server.url) as client, connected(server.url) as other:
        for number in range(50):
            await client.send({"type": "publish", "topic": "news", "message": number, "id": number})
        answers = [await client.receive() for _ in range(50)]
        refused = [answer for answer in answers if answer["type"] == "error"]
        assert len(answers) - len(refused) >= 5
        assert {(answer["code"], answer["retryable"]) for answer in refused} == {
            ("rate_limited", True)
        }
        await other.publish("news", "others have a rate of their own")

        async def is_allowed_again() -> bool:
            return bool((await client.call("publish", "news", message=1))["type"] == "ack")

        await wait_until_async(is_allowed_again)


async def test_fast_publisher_that_reads_late_loses_nothing(server: Server) -> None:
    """It sends more than the limits hold before it reads the first ack."""
    count = 30_000
    async with connected(server.url) as reader:
        await reader.subscribe("fast")
        received: list[int] = []

        async def read() -> None:
            while len(received) < count:
                received.append((await reader.receive(60))["message"])

        reading = asyncio.create_task(read())
        acked = await asyncio.to_thread(_publish_and_read_late, server.port, count)
        await reading
    assert acked == count
    assert received == list(range(count))


def _publish_and_read_late(port: int, count: int) -> int:
    """From a socket whose receiving side is read only once nothing more can be sent, or all is; how many acks came."""
    with raw_websocket(port) as connection:
        sending = b"".join(
            masked(json.dumps({"type": "publish", "topic": "fast", "message": number}).encode())
            for number in range(count)
        )
        connection.settimeout(0.5)
        acked, sent, received = 0, 0, b""
        while acked < count:
            try:
                sent += connection.send(sending[sent : sent + MIB])
                if sent < len(sending):
                    continue
            except TimeoutError:
                pass  # the server has stopped reading: read what it has sent meanwhile
            connection.settimeout(30)
            data = connection.recv(MIB)
            assert data, f"closed after {acked} acks"
            connection.settimeout(0.5)
            received += data
            acked += received.count(b'"type":"ack"')
            received = received[-len(b'"type":"ack"') + 1 :]
        return acked


async def test_slow_reader_is_cut_off_and_slows_nobody(
    start_server: ServerFactory, server_kind: str
) -> None:
    """40 MiB go past a reader that does not read: memory stays, the other reader gets every message."""
    # What is kept for recovery is not what is measured here.
    server = start_server(server_kind, dwsps={"TAIL_BYTES": 1})
    count, size = 700, 60_000  # 40 MiB
    with raw_websocket(server.port) as connection:
        SlowReader(connection)
        async with connected(server.url) as reader, connected(server.url) as writer:
            await reader.subscribe("slow")
            before = server.rss()
            peak = threading.Event(), [before]
            watcher = threading.Thread(target=_watch, args=(server, *peak))
            watcher.start()
            try:
                reading = asyncio.create_task(_read(reader, count))
                for number in range(count):
                    await writer.publish("slow", [number, "x" * size])
                assert await reading == list(range(count))
            finally:
                peak[0].set()
                watcher.join()
            assert max(peak[1]) - before < 10 * MIB
        assert server.log.count("bytes were waiting to be read") == 1
        await wait_until_async(
            lambda: _is_cut_off(server.port, connection), what="the connection is gone"
        )


def _watch(server: Server, stop: threading.Event, sizes: list[int]) -> None:
    while not stop.wait(0.02):
        sizes.append(server.rss())


async def _read(reader: WireClient, count: int) -> list[int]:
    return [(await reader.receive(60))["message"][0] for _ in range(count)]


async def test_slow_reader_that_reads_again_learns_why(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(
        server_kind,
        dwsps={"MAX_BUFFERED_BYTES": 256 * 1024},
        application="tests.wire.lenient:application",
    )
    with raw_websocket(server.port) as connection:
        slow = SlowReader(connection)
        async with connected(server.url) as writer, asyncio.timeout(RECEIVE_TIMEOUT):
            while "bytes were waiting to be read" not in server.log:
                await writer.publish("slow", "x" * 60_000)
        tail = await asyncio.to_thread(slow.read_to, 4100)
        assert b'"code":"unavailable","reason":"too slow' in tail
        assert (4100).to_bytes(2, "big") in tail[-130:]


def _is_cut_off(port: int, connection: socket.socket) -> bool:
    """Return whether the server's end of the connection is gone, by the kernel, without reading from ours."""
    own = connection.getsockname()[1]
    with open("/proc/net/tcp") as table:
        for line in table:
            _, local, remote, state, *_ = line.split()
            if local.endswith(f":{port:04X}") and remote.endswith(f":{own:04X}"):
                return state != "01"  # not ESTABLISHED
    return True
