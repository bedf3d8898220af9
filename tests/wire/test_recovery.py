"""Recovery, against every server: a client that was away, and what it is sent when it comes back."""

import asyncio
import json
import signal
from contextlib import suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.processes import Server, ServerFactory, wait_until_async
from tests.wire.client import WireClient, connected
from tests.wire.raw import MIB, masked, raw_websocket

Message = dict[str, Any]


async def recover(client: WireClient, **request: object) -> tuple[list[Message], Message]:
    """Send a request; return the deliveries before its ack, and the ack."""
    await client.send({**request, "id": "recover"})
    deliveries = []
    while (frame := await client.receive())["type"] == "publish":
        deliveries.append(frame)
    assert (frame["type"], frame["id"]) == ("ack", "recover"), frame
    return deliveries, frame


async def cursor(client: WireClient) -> str:
    """Return the end of the log."""
    ack = await client.call("unsubscribe", "nothing.at.all")
    return str(ack["cursor"])


def messages(deliveries: list[Message]) -> list[Any]:
    return [delivery["message"] for delivery in deliveries]


async def test_a_client_that_was_cut_off_gets_what_it_missed_and_then_what_comes(
    server: Server,
) -> None:
    async with connected(server.url) as writer:
        async with connected(server.url) as gone:
            ack = await gone.call("subscribe", "away", last=0)
            await writer.publish("away", 1)
            first = await gone.receive()
            gone.connection.transport.abort()
            with suppress(ConnectionClosed):
                await gone.receive()
        witness = []
        async with connected(server.url) as stayed:
            await stayed.subscribe("away")
            await stayed.subscribe("also")
            for number, topic in enumerate(("away.deep", "other", "also", "away"), 2):
                await writer.publish(topic, number)
                if topic != "other":
                    witness.append(await stayed.receive())

        async with connected(server.url) as back:
            since = f"{ack['cursor'].partition(':')[0]}:{first['offset']}"
            missed, ack = await recover(back, type="resume", since=since, topics=["away", "also"])
            assert missed == witness
            assert ack["topics"] == {"away": {"recovered": True}, "also": {"recovered": True}}
            await writer.publish("away", 6)
            assert (await back.receive())["message"] == 6
            await back.nothing_more()


async def test_a_subscribe_replays_from_a_cursor_or_the_last_ones(server: Server) -> None:
    async with connected(server.url) as writer, connected(server.url) as client:
        since = await cursor(writer)
        for number in range(5):
            await writer.publish(f"since.{number}", number)

        missed, ack = await recover(client, type="subscribe", topic="since", since=since)
        assert (messages(missed), ack["recovered"]) == ([0, 1, 2, 3, 4], True)
        missed, ack = await recover(client, type="subscribe", topic="since.3", last=2)
        assert (messages(missed), "recovered" in ack) == ([3], False)
        missed, ack = await recover(client, type="subscribe", topic="since", since="another:1")
        assert (messages(missed), ack["recovered"]) == ([], False)
        missed, ack = await recover(
            client, type="subscribe", topic="since.new", since=ack["cursor"]
        )
        assert (messages(missed), ack["recovered"]) == ([], True)


async def test_each_message_comes_once_and_in_order_though_all_publish_meanwhile(
    server: Server,
) -> None:
    """Clients come and go, from where they left, while publishers do not stop."""
    publishers, count, readers = 3, 200, 6
    done = asyncio.Event()

    async def publish(name: str) -> None:
        async with connected(server.url) as writer:
            for number in range(count):
                await writer.publish(f"busy.{name}", number)

    async def read() -> list[tuple[str, int]]:
        """Resume again and again, reading a few after each ack; return all that came."""
        got: list[tuple[str, int]] = []
        since, visits = begin, 0
        epoch = begin.partition(":")[0]
        while True:
            is_last = done.is_set()
            async with connected(server.url) as client:
                missed, ack = await recover(
                    client, type="resume", since=since, topics=["busy.0", "busy", "idle"]
                )
                yes = {"recovered": True}
                assert ack["topics"] == {"busy.0": yes, "busy": yes, "idle": yes}
                visits += 1
                acked = int(ack["cursor"].partition(":")[2])
                live = [] if is_last else await _read_some(client, visits % 4)
                both = missed + live
                offsets = [delivery["offset"] for delivery in both]
                assert offsets == sorted(offsets)
                assert all(delivery["offset"] <= acked for delivery in missed)
                assert all(delivery["offset"] > acked for delivery in live)
                got += [
                    (delivery["topic"], delivery["message"])
                    for delivery in both
                    if delivery["context"] == "busy"
                ]
                copies = [d["message"] for d in both if d["context"] == "busy.0"]
                assert copies == [
                    d["message"] for d in both if d["context"] == "busy" and d["topic"] == "busy.0"
                ]
                since = f"{epoch}:{offsets[-1] if live else acked}"
            if is_last:
                return got

    async with connected(server.url) as client:
        begin = await cursor(client)
    reading = [asyncio.create_task(read()) for _ in range(readers)]
    await asyncio.gather(*(publish(str(number)) for number in range(publishers)))
    done.set()
    received = await asyncio.gather(*reading)

    assert all(got == received[0] for got in received)
    for name in range(publishers):
        of_one = [number for topic, number in received[0] if topic == f"busy.{name}"]
        assert of_one == list(range(count))


async def _read_some(client: WireClient, count: int) -> list[Message]:
    """Read ``count`` messages with all of their copies, or fewer if no more come for a while."""
    got: list[Message] = []
    with suppress(TimeoutError):
        for _ in range(count):
            got.append(await client.receive(0.5))
            while got[-1]["context"] != "busy":
                got.append(await client.receive())  # the other copy is not left behind
    return got


async def test_a_publish_that_is_sent_again_with_its_key_is_published_once(server: Server) -> None:
    async with connected(server.url) as reader, connected(server.url) as writer:
        await reader.subscribe("keys")
        first = await writer.call("publish", "keys", message=1, key="a key of this test")
        async with connected(server.url) as again:
            second = await again.call("publish", "keys", message=1, key="a key of this test")
            other = await again.call("publish", "keys", message=2, key="another")
        assert second["offset"] == first["offset"] < other["offset"]
        assert messages([await reader.receive(), await reader.receive()]) == [1, 2]
        await reader.nothing_more()


async def test_a_server_that_goes_away_sends_the_cursor(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(server_kind)
    async with connected(server.url) as client:
        await client.subscribe("news")
        await client.publish_and_receive("news", 1)
        here = await cursor(client)
        server.signal(signal.SIGTERM)
        final_frame = await client.receive()
        assert (final_frame["type"], final_frame["code"]) == ("error", "unavailable")
        assert final_frame["cursor"] == here
        assert here.endswith(":1")
        with pytest.raises(ConnectionClosed):
            await client.receive()
        assert client.connection.close_code == 4200


# Readers that are slow.

ROOMY = {
    "MAX_BUFFERED_BYTES": 2 * MIB,
    "RESUME_BYTES": MIB + MIB // 2,
    "RESUME_MESSAGES": 5000,
}


async def test_a_slow_reader_s_replay_disturbs_nobody_and_does_not_close_it(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(server_kind, dwsps=ROOMY)
    count = 5000
    async with connected(server.url) as writer, connected(server.url) as other:
        since = await cursor(writer)
        for start in range(0, count, 100):
            for number in range(start, start + 100):
                await writer.send(
                    {"type": "publish", "topic": "slow", "message": [number, "x" * 100]}
                )
            for _ in range(100):
                assert (await writer.receive())["type"] == "ack"
        await other.subscribe("other")

        request = {"type": "resume", "since": since, "topics": ["slow"]}
        with raw_websocket(server.port) as slow:
            # More than the network holds: what does not fit waits for the reader, and is not sent in vain.
            resumes = 5
            for number in range(resumes):
                slow.sendall(masked(json.dumps({**request, "id": number}).encode()))
            # Few, as it is closed if it reads nothing for 5 s.
            for number in range(20):
                await writer.publish("other", number)
                assert (await other.receive())["message"] == number

            data = await asyncio.to_thread(_read_acks, slow, resumes)
        assert data.count(b'"context":"slow"') == resumes * count
        assert data.count(b'"recovered":true') == resumes
        assert "bytes were waiting to be read" not in server.log
    assert "Traceback" not in server.log


def _read_acks(connection: Any, count: int) -> bytes:
    data = bytearray()
    # The end of an ack, so that none is cut off.
    while data.count(b"}}}") < count:
        received = connection.recv(MIB)
        assert received, data[-300:]
        data += received
    return bytes(data)


async def test_a_client_that_was_closed_for_being_slow_resumes_like_any_other(
    start_server: ServerFactory, server_kind: str
) -> None:
    """It is sent all that it missed as it reads, and then what was published meanwhile."""
    server = start_server(server_kind, dwsps={"MAX_BUFFERED_BYTES": 256 * 1024})
    topics = ["slow", "calm", "none"]
    async with connected(server.url) as writer:
        since = await cursor(writer)
        with raw_websocket(server.port) as slow:
            request = {"type": "resume", "since": since, "topics": topics}
            slow.sendall(masked(json.dumps(request).encode()))
            await asyncio.to_thread(_read_acks, slow, 1)
            await writer.publish("calm", 0)
            count = 0
            while "bytes were waiting to be read" not in server.log:
                count += 1
                await writer.publish("slow", [count, "x" * 10_000])
            await writer.publish("calm", 1)
        async with connected(server.url) as back:
            resuming = asyncio.create_task(recover(back, type="resume", since=since, topics=topics))
            meanwhile = 0
            while not resuming.done() and meanwhile < 50:
                meanwhile += 1
                await writer.publish("slow", [count + meanwhile, ""])
            missed, ack = await resuming
            assert ack["topics"] == {topic: {"recovered": True} for topic in topics}
            offsets = [each["offset"] for each in missed]
            assert offsets == sorted(offsets)
            assert messages([each for each in missed if each["topic"] == "calm"]) == [0, 1]
            numbers = [each["message"][0] for each in missed if each["topic"] == "slow"]
            while len(numbers) < count + meanwhile:
                numbers.append((await back.receive())["message"][0])
            assert numbers == list(range(1, count + meanwhile + 1))
            await back.nothing_more()


async def test_a_client_that_stops_reading_in_the_middle_of_a_replay_is_closed_without_an_ack(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(
        server_kind, dwsps={"MAX_BUFFERED_BYTES": 256 * 1024, "RESUME_BYTES": 12 * MIB}
    )
    async with connected(server.url) as writer:
        since = await cursor(writer)
        for number in range(200):
            await writer.publish("slow", [number, "x" * 50_000])
        with raw_websocket(server.port) as slow:
            request = {"type": "resume", "since": since, "topics": ["slow"]}
            slow.sendall(masked(json.dumps(request).encode()))
            await wait_until_async(lambda: "it has not read what it missed" in server.log)
            data = await asyncio.to_thread(_read_all, slow)
        assert b'"action":"resume"' not in data
        assert b'"context":"slow"' in data


def _read_all(connection: Any) -> bytes:
    data = bytearray()
    with suppress(ConnectionResetError):
        while received := connection.recv(MIB):
            data += received
    return bytes(data)
