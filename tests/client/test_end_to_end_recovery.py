"""Recovery of the clients against the project's own servers: breaks, restarts, deploys, slow readers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from dwsps_channels.client import BlockingClient, Client, Message
from tests.processes import HOST, Redis, Server, ServerFactory, wait_until_async
from tests.proxy import Proxy, proxy_to

QUICK: dict[str, Any] = {
    "min_delay": 0.02,
    "max_delay": 0.1,
    "heartbeat": 0.1,
    "heartbeat_timeout": 0.5,
    "timeout": 2.0,
}
RESET = "reset"


class Recorder:
    """Messages in the order in which a reader gets them, with its resets between them."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def message(self, message: Message) -> None:
        self.seen.append(message.message)

    def reset(self) -> None:
        self.seen.append(RESET)


@asynccontextmanager
async def proxied(proxy: Proxy) -> AsyncIterator[Client]:
    async with Client(f"ws://{HOST}:{proxy.port}/ws/pubsub/", **QUICK) as client:
        yield client


async def test_a_client_that_is_cut_off_again_and_again_misses_nothing(server: Server) -> None:
    deep, shallow = Recorder(), Recorder()
    async with (
        proxy_to(server.port) as proxy,
        proxied(proxy) as reader,
        Client(server.url) as writer,
    ):
        await reader.subscribe("cut", shallow.message, on_reset=shallow.reset)
        await reader.subscribe("cut.off", deep.message, on_reset=deep.reset)
        published: list[int] = []

        async def publish() -> None:
            for _ in range(3):
                published.append(len(published))
                await writer.publish("cut.off", published[-1])

        for _ in range(3):
            await publish()
            proxy.cut()
            await publish()
            await wait_until_async(lambda: reader.state == "reconnecting")
            await publish()
            proxy.mend()
            await publish()
            await wait_until_async(lambda: reader.state == "open")
            proxy.drop()
            await publish()
        await wait_until_async(lambda: len(deep.seen) == len(shallow.seen) == len(published))
    assert deep.seen == shallow.seen == published


async def test_a_publish_whose_ack_is_lost_is_published_once(server: Server) -> None:
    recorder = Recorder()
    async with (
        proxy_to(server.port) as proxy,
        proxied(proxy) as writer,
        Client(server.url) as reader,
    ):
        await reader.subscribe("once", recorder.message)
        first = await writer.publish("once", 0)
        assert first.offset is not None
        proxy.hold()
        publishing = [asyncio.create_task(writer.publish("once", n)) for n in range(1, 4)]
        await wait_until_async(lambda: recorder.seen == [0, 1, 2, 3])
        proxy.drop()
        proxy.flow()
        acks = await asyncio.gather(*publishing)
        await writer.publish("once", 4)
        await wait_until_async(lambda: recorder.seen[-1] == 4)
    assert recorder.seen == [0, 1, 2, 3, 4]
    offsets = [ack.offset for ack in acks]
    assert offsets == [first.offset + 1, first.offset + 2, first.offset + 3]


async def test_a_restarted_server_has_forgotten_and_the_reader_is_told_in_its_place(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(server_kind)
    recorder = Recorder()
    resets: list[list[str]] = []
    async with Client(server.url, on_reset=resets.append, **QUICK) as client:
        await client.subscribe("news", recorder.message, on_reset=recorder.reset)
        await client.publish("news", "before")
        # A server that is stopped takes the frame, and is killed before it reads it.
        server.suspend()
        publishing = asyncio.create_task(client.publish("news", "in flight"))
        await asyncio.sleep(0)
        server.kill()
        await wait_until_async(lambda: client.state == "reconnecting")
        server.start()
        async with asyncio.timeout(60):
            ack = await publishing
            await client.publish("news", "after")
        assert ack.offset == 1
        await wait_until_async(lambda: recorder.seen[-1:] == ["after"])
    assert recorder.seen == ["before", RESET, "in flight", "after"]
    assert resets == [["news"]]


async def test_a_deploy_hands_clients_over_without_a_gap(
    start_server: ServerFactory, server_kind: str, redis: Redis
) -> None:
    env = {"REDIS_URL": redis.url}
    old, new = start_server(server_kind, env=env), start_server(server_kind, env=env)
    recorder = Recorder()
    async with (
        proxy_to(old.port) as proxy,
        proxied(proxy) as reader,
        Client(new.url) as writer,
    ):
        await reader.subscribe("news", recorder.message, on_reset=recorder.reset)
        quiet = await reader.subscribe("quiet", recorder.message, on_reset=recorder.reset)
        published = 0
        proxy.target = new.port
        stopping = asyncio.create_task(asyncio.to_thread(old.terminate))
        while not stopping.done() or reader.state != "open" or published < 20:
            await writer.publish("news.uk", published)
            published += 1
        await stopping
        await writer.publish("news.uk", published)
        await wait_until_async(lambda: recorder.seen[-1:] == [published])
        await quiet.unsubscribe()
    assert recorder.seen == list(range(published + 1))


async def _publish(writer: Client, number: int, padding: str) -> int:
    """Publish with this number, and return the next."""
    assert number < 400, "the reader was never closed"
    await writer.publish("flood", [number, padding])
    return number + 1


async def test_a_reader_that_was_too_slow_for_the_server_is_told(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(
        server_kind,
        dwsps={"MAX_BUFFERED_BYTES": 200_000, "RESUME_BYTES": 100_000},
        application="tests.wire.lenient:application",
    )
    recorder = Recorder()
    async with (
        proxy_to(server.port) as proxy,
        Client(
            f"ws://{HOST}:{proxy.port}/ws/pubsub/", **QUICK | {"heartbeat_timeout": 30.0}
        ) as reader,
        Client(server.url) as writer,
    ):
        await reader.subscribe("flood", recorder.message, on_reset=recorder.reset)
        proxy.hold()
        big = "x" * 60_000
        published = 0
        while "bytes were waiting to be read" not in server.log:
            published = await _publish(writer, published, big)
        # More than it gets when it comes back.
        for _ in range(5):
            published = await _publish(writer, published, big)
        proxy.flow()
        await wait_until_async(lambda: RESET in recorder.seen)
        last = await _publish(writer, published, "") - 1
        await wait_until_async(lambda: recorder.seen[-1:] == [[last, ""]])
        assert "4100" in str(reader.last_error)
    [place] = [place for place, each in enumerate(recorder.seen) if each == RESET]
    numbers = [each[0] for each in recorder.seen if each != RESET]
    before, after = numbers[:place], numbers[place:]
    assert before == list(range(len(before)))
    assert after == list(range(after[0], last + 1))
    assert len(before) < after[0]


async def test_a_reader_that_was_closed_for_being_slow_misses_nothing(
    start_server: ServerFactory, server_kind: str
) -> None:
    limits = {"MAX_BUFFERED_BYTES": 200_000, "RESUME_BYTES": 14_000_000}
    server = start_server(server_kind, dwsps=limits, application="tests.wire.lenient:application")
    recorder = Recorder()
    async with (
        proxy_to(server.port) as proxy,
        Client(
            f"ws://{HOST}:{proxy.port}/ws/pubsub/", **QUICK | {"heartbeat_timeout": 30.0}
        ) as reader,
        Client(server.url) as writer,
    ):
        await reader.subscribe("flood", recorder.message, on_reset=recorder.reset)
        proxy.hold()
        big = "x" * 60_000
        published = 0
        while "bytes were waiting to be read" not in server.log:
            published = await _publish(writer, published, big)
        proxy.flow()
        await writer.publish("flood", [published, ""])
        await wait_until_async(lambda: recorder.seen[-1:] == [[published, ""]])
        assert "4100" in str(reader.last_error)
    assert [each[0] for each in recorder.seen] == list(range(published + 1))


async def test_since_and_last_begin_where_they_say(server: Server) -> None:
    async with Client(server.url) as client, client.subscribe("start"):
        cursor = client.cursor
        for number in range(5):
            await client.publish("start.below", number)
        starts: list[tuple[dict[str, Any], list[Any]]] = [
            ({}, []),
            ({"last": 2}, [3, 4]),
            ({"last": 100}, [0, 1, 2, 3, 4]),
            ({"since": cursor}, [0, 1, 2, 3, 4]),
        ]
        readers = []
        for options, _ in starts:
            readers.append(client.subscribe("start.below", **options))
            await readers[-1].begin()
        await client.publish("start.below", "end")
        for reader, (_, expected) in zip(readers, starts, strict=True):
            for message in [*expected, "end"]:
                got = await reader.get()
                assert got is not None
                assert got.message == message


def test_threads_recover_too(server: Server) -> None:
    recorder = Recorder()
    with (
        BlockingClient(server.url, **QUICK) as reader,
        BlockingClient(server.url) as writer,
        reader.subscribe("threads", on_reset=recorder.reset, timeout=30) as messages,
    ):
        for number in range(3):
            writer.publish("threads", number)
        exchange = reader._client._exchange
        assert exchange is not None
        reader._thread._loop.call_soon_threadsafe(exchange.connection.abort, "cut by the test")
        for number in range(3, 6):
            writer.publish("threads", number)
        for message in messages:
            recorder.message(message)
            if message.message == 5:
                break
        again = reader.subscribe("threads", last=1, timeout=30)
        assert next(iter(again)).message == 5
    assert recorder.seen == list(range(6))
