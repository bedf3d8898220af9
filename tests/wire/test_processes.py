"""Two processes on one Redis are one server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.conftest import server_factory
from tests.processes import ROOT, Redis, Server, ServerFactory, redis_server, wait_until_async
from tests.wire.client import WireClient, connected

Pair = tuple[Server, Server]


@pytest.fixture(scope="module", params=[("daphne", "uvicorn"), ("fastlane", "fastlane")], ids=str)
def pair(
    request: pytest.FixtureRequest,
    migrated_database: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    """Two processes for all tests that leave them as they are; each test has its own topics."""
    folder = tmp_path_factory.mktemp("pair")
    with Redis.all_closed() as redis, Server.all_closed() as servers:
        redis.append(redis_server(folder))
        env = {"REDIS_URL": redis[0].start().url}
        start = server_factory(servers, folder, migrated_database)
        one, two = (start(kind, env=env) for kind in request.param)
        yield one, two


@pytest.fixture
def own_pair(start_server: ServerFactory, redis: Redis) -> Pair:
    """Two processes whose Redis the test restarts."""
    env = {"REDIS_URL": redis.url}
    return start_server("daphne", env=env), start_server("fastlane", env=env)


@asynccontextmanager
async def clients(pair: Pair) -> AsyncIterator[tuple[WireClient, WireClient]]:
    async with connected(pair[0].url) as one, connected(pair[1].url) as two:
        yield one, two


async def test_message_reaches_the_subscribers_of_both_once_and_in_order(
    pair: Pair,
) -> None:
    count = 500
    async with clients(pair) as (one, two), connected(pair[1].url) as also_two:
        for reader in (one, two, also_two):
            await reader.subscribe("news")
        async with connected(pair[0].url) as writer:
            for number in range(count):
                await writer.send({"type": "publish", "topic": "news.uk", "message": number})
            acks = [(await writer.receive())["type"] for _ in range(count)]
            assert acks == ["ack"] * count
        for reader in (one, two, also_two):
            assert [(await reader.receive())["message"] for _ in range(count)] == list(range(count))
            await reader.nothing_more()


async def test_a_publisher_that_is_subscribed_gets_its_own_message_before_the_ack(
    pair: Pair,
) -> None:
    count = 300

    async def talk(client: WireClient, name: str) -> None:
        for number in range(count):
            await client.send(
                {"type": "publish", "topic": "talk", "message": [name, number], "id": number}
            )

    async with clients(pair) as (one, two):
        for client in (one, two):
            await client.subscribe("talk")
        await asyncio.gather(talk(one, "one"), talk(two, "two"))
        for client, name in ((one, "one"), (two, "two")):
            came: dict[str, list[int]] = {"one": [], "two": []}
            acks: list[int] = []
            for _ in range(3 * count):
                frame = await client.receive()
                if frame["type"] == "publish":
                    publisher, number = frame["message"]
                    came[publisher].append(number)
                else:
                    assert frame["id"] <= came[name][-1]
                    acks.append(frame["id"])
            assert came["one"] == came["two"] == acks == list(range(count))
            await client.nothing_more()


async def test_message_crosses_byte_for_byte(pair: Pair) -> None:
    texts = [
        '{"z":123456789012345678901234567890,  "a":[1e999,"\\u00e9\\/☃😀"],"z":null}',
        "[" * 128 + "]" * 128,
        r'{"\ud83d":["\uDE00\ud83d","\ud83d\ude00","\\ud83d"]}',
    ]
    async with clients(pair) as (one, two):
        await two.subscribe("raw")
        for text in texts:
            await one.connection.send('{"type":"publish","topic":"raw","message":' + text + "}")
            assert f'"message":{text},' in str(await two.connection.recv())


async def test_nested_messages_of_one_client_cost_no_other_client_any(
    pair: Pair,
) -> None:
    count = 200
    async with clients(pair) as (one, two), connected(pair[0].url) as hostile:
        await two.subscribe("calm")
        # Between those that the broker takes and those that nobody reads.
        depths = [128, 129, 500, 900, 980, 990, 995, 1000, 5000]
        for number in range(count):
            nested = depths[number % len(depths)]
            text = "[" * nested + "]" * nested
            await hostile.connection.send(
                '{"type":"publish","topic":"elsewhere","message":' + text + "}"
            )
            await one.send({"type": "publish", "topic": "calm", "message": number})
        assert [(await one.receive())["type"] for _ in range(count)] == ["ack"] * count
        answers = [(await hostile.receive()).get("code", "ack") for _ in range(count)]
        assert set(answers) == {"ack", "message_too_deep"}
        assert [(await two.receive())["message"] for _ in range(count)] == list(range(count))


async def test_processes_find_each_other_again_after_redis_was_restarted(
    own_pair: Pair, redis: Redis
) -> None:
    async with clients(own_pair) as (one, two):
        await one.subscribe("from.two")
        await two.subscribe("from.one")
        await asyncio.to_thread(redis.kill)

        async def is_unavailable() -> bool:
            answer = await one.call("publish", "sport", message=1)
            return bool(
                answer["type"] == "error"
                and answer["code"] == "unavailable"
                and answer["retryable"]
            )

        await wait_until_async(is_unavailable, what="a publish is refused while Redis is away")
        await asyncio.to_thread(redis.start)
        await asyncio.gather(
            _until_heard(own_pair[0], two, "from.one"), _until_heard(own_pair[1], one, "from.two")
        )
    for server in own_pair:
        # channels-redis leaves a traceback of its own behind, of a task that it did not look at.
        assert f"{ROOT}/dwsps_channels/" not in server.log


async def _until_heard(server: Server, reader: WireClient, topic: str) -> None:
    """Publish to one process until the other one's subscriber gets it."""

    async def publish() -> None:
        async with connected(server.url) as writer:
            while True:
                await writer.call("publish", topic, message="anybody there?")

    publishing = asyncio.create_task(publish())
    try:
        assert (await reader.receive())["message"] == "anybody there?"
    finally:
        publishing.cancel()


# Recovery (docs/reference/protocol.md, "Recovery").


async def test_a_client_recovers_at_another_process_in_the_one_order(
    pair: Pair,
) -> None:
    async with clients(pair) as (one, two):
        since = (await one.call("subscribe", "back"))["cursor"]
        await two.subscribe("back")
        for number in range(20):
            writer = (one, two)[number % 2]
            await writer.send({"type": "publish", "topic": f"back.{number}", "message": number})
        received = [
            [frame for frame in [await client.receive() for _ in range(30)] if "context" in frame]
            for client in (one, two)
        ]
        assert received[0] == received[1]
        offsets = [delivery["offset"] for delivery in received[0]]
        assert offsets == sorted(set(offsets))

    async with clients(pair) as back:
        for client in back:
            await client.send({"type": "resume", "since": since, "topics": ["back"]})
            assert [await client.receive() for _ in range(20)] == received[0]
            ack = await client.receive()
            assert ack["topics"] == {"back": {"recovered": True}}
            assert ack["cursor"] == f"{since.partition(':')[0]}:{offsets[-1]}"


async def test_a_key_holds_on_all_processes_and_for_signals(
    start_server: ServerFactory, redis: Redis
) -> None:
    env, application = {"REDIS_URL": redis.url}, "tests.wire.heard:application"
    pair = (
        start_server("uvicorn", env=env, application=application),
        start_server("fastlane", env=env, application=application),
    )
    async with clients(pair) as (one, two), connected(pair[0].url) as reader:
        await reader.subscribe("heard")
        first = await one.call("publish", "news", message=1, key="k")
        again = await two.call("publish", "news", message=1, key="k")
        assert again["offset"] == first["offset"]
        assert (await two.call("publish", "news", message=2))["offset"] > first["offset"]
        await two.call("publish", "news", message=3, key="l")
        # Of the two processes in any order.
        heard = [(await reader.receive())["message"] for _ in range(3)]
        assert sorted(heard) == [1, 2, 3]


async def test_clients_that_know_reset_get_it_when_redis_has_lost_the_log_and_others_do_not(
    own_pair: Pair, redis: Redis
) -> None:
    async with clients(own_pair) as knowing, clients(own_pair) as old:
        since = ""
        for client in knowing:
            since = (await client.call("subscribe", "news", last=0))["cursor"]
        for client in old:
            await client.subscribe("news")
        await asyncio.to_thread(redis.restart)

        cursors = []
        for client in knowing:
            reset = await client.receive()
            assert reset["type"] == "reset", reset
            cursors.append(reset["cursor"])
        epochs = {cursor.partition(":")[0] for cursor in cursors}
        assert len(epochs) == 1
        assert since.partition(":")[0] not in epochs

        async def is_published() -> bool:
            with suppress(InvalidStatus):
                async with connected(own_pair[0].url) as writer:
                    answer = await writer.call("publish", "news", message="after")
                    return bool(answer["type"] == "ack")
            return False

        await wait_until_async(is_published, what="a publish is taken again")
        for client in (*knowing, *old):
            delivery = await client.receive()
            assert (delivery["type"], delivery["message"]) == ("publish", "after")
        async with clients(own_pair) as back:
            for client, cursor in zip(back, cursors, strict=True):
                ack = await client.call("subscribe", "news", since=since)
                assert ack["recovered"] is False
                delivery = await client.call("subscribe", "news", since=cursor)
                assert delivery["message"] == "after"
                assert (await client.receive())["recovered"] is True
