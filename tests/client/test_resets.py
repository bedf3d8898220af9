"""How an application learns that messages are missing: in the reader's order, and once for the client."""

import asyncio
from typing import Any

import pytest

from dwsps_channels.client import BlockingClient, InvalidCall
from tests.client.conftest import Connect
from tests.client.scripted import IGNORE, NOW, ScriptedServer
from tests.processes import wait_until_async

RESET = {"type": "reset", "cursor": "e2:7"}


async def test_a_loop_is_told_between_the_messages_where_some_are_missing(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    seen: list[Any] = []
    loaded = asyncio.Event()

    async def load() -> None:
        seen.append("loading")
        await loaded.wait()
        seen.append("loaded")

    async def read() -> None:
        async for message in client.subscribe("news", on_reset=load):
            seen.append(message.message)

    reading = asyncio.create_task(read())
    await wait_until_async(lambda: scripted.topics == ["news"])
    await scripted.deliver("news", 1)
    await scripted.broadcast(RESET)
    await scripted.deliver("news", 2)
    await wait_until_async(lambda: seen[-1:] == ["loading"])
    assert client.cursor == "e2:7"  # what came later has come in, and waits
    loaded.set()
    await wait_until_async(lambda: seen == [1, "loading", "loaded", 2])
    await client.close()
    await reading


async def test_a_callback_is_told_in_its_order_and_may_fail(
    scripted: ScriptedServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client = await connect(scripted)
    seen: list[Any] = []

    def fail() -> None:
        seen.append("reset")
        raise ValueError("not loaded")

    await client.subscribe("news", lambda message: seen.append(message.message), on_reset=fail)
    await scripted.deliver("news", 1)
    await scripted.broadcast(RESET)
    await scripted.deliver("news", 2)
    await wait_until_async(lambda: seen == [1, "reset", 2])
    assert "not loaded" in caplog.text


async def test_what_on_reset_raises_in_a_loop_is_raised_from_the_loop(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)

    def fail() -> None:
        raise ValueError("not loaded")

    async with client.subscribe("news", on_reset=fail) as messages:
        await scripted.broadcast(RESET)
        with pytest.raises(ValueError, match="not loaded"):
            await messages.get()
        await scripted.deliver("news", 1)
        assert (await messages.get()) is not None


async def test_a_reset_whose_handler_is_cancelled_is_told_again(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    began = 0
    loaded = asyncio.Event()

    async def load() -> None:
        nonlocal began
        began += 1
        await loaded.wait()

    async with client.subscribe("news", on_reset=load) as messages:
        await scripted.broadcast(RESET)
        await scripted.deliver("news", 1)
        getting = asyncio.create_task(messages.get())
        await wait_until_async(lambda: began == 1)
        getting.cancel()
        await asyncio.wait([getting])
        loaded.set()
        message = await messages.get()
    assert began == 2
    assert message is not None
    assert message.message == 1


async def test_two_resets_without_a_message_between_them_are_one(
    scripted: ScriptedServer, connect: Connect
) -> None:
    resets: list[list[str]] = []
    client = await connect(scripted, on_reset=resets.append)
    told: list[str] = []
    async with client.subscribe("news", on_reset=lambda: told.append("news")) as messages:
        await scripted.broadcast(RESET)
        await scripted.broadcast(RESET)
        await scripted.deliver("news", 1)
        await messages.get()
    assert (told, resets) == (["news"], [["news"], ["news"]])


async def test_a_reader_that_is_too_slow_is_told_in_place_of_what_was_dropped(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted, reader_messages=3)
    seen: list[Any] = []
    async with client.subscribe("news", on_reset=lambda: seen.append("reset")) as messages:
        for number in range(10):
            await client.publish("news", number)
        for _ in range(3):
            message = await messages.get()
            assert message is not None
            seen.append(message.message)
        await client.publish("news", 10)
        assert (await messages.get()) is not None
    assert seen == ["reset", 7, 8, 9]
    assert messages.dropped == 7


async def test_a_reader_for_which_a_replay_is_too_long_is_told(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted, reader_messages=3)
    scripted.decide = lambda frame: IGNORE if frame["type"] == "subscribe" else None
    seen: list[Any] = []
    subscription = client.subscribe("news", last=5, on_reset=lambda: seen.append("reset"))
    beginning = asyncio.create_task(subscription.begin())
    await wait_until_async(lambda: scripted.sent("subscribe"))
    delivery = {"type": "publish", "topic": "news", "context": "news", "timestamp": NOW}
    for number in range(1, 6):
        await scripted.broadcast(delivery | {"offset": number, "message": number})
    answer = {"id": scripted.frames[-1]["id"], "topic": "news", "cursor": "e:5"}
    await scripted.broadcast({"type": "ack", "action": "subscribe", "timestamp": NOW, **answer})
    await beginning
    for _ in range(3):
        message = await subscription.get()
        assert message is not None
        seen.append(message.message)
    assert (seen, subscription.dropped) == (["reset", 3, 4, 5], 2)


async def test_a_dropped_reset_is_told_before_what_is_left(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted, reader_bytes=1000)
    told: list[str] = []
    async with client.subscribe("news", on_reset=lambda: told.append("reset")) as messages:
        await scripted.broadcast(RESET)
        await client.publish("news", "x" * 2000)
        message = await messages.get()
    assert message is not None
    assert len(message.message) == 2000
    assert told == ["reset"]


async def test_on_reset_of_the_client_that_raises_is_logged(
    scripted: ScriptedServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    def on_reset(topics: list[str]) -> None:
        raise ValueError(topics)

    client = await connect(scripted, on_reset=on_reset)
    async with client.subscribe("news"):
        await scripted.broadcast(RESET)
        await client.publish("news", 1)
    assert "on_reset raised" in caplog.text


async def test_a_thread_is_told_between_the_messages_in_itself(scripted: ScriptedServer) -> None:
    seen: list[Any] = []

    def read() -> None:
        with (
            BlockingClient(scripted.url) as client,
            client.subscribe("news", on_reset=lambda: seen.append("reset"), timeout=30) as messages,
        ):
            for message in messages:
                seen.append(message.message)
                # The client's own thread could not make a call.
                assert client.publish("other", 1).offset is None
                if message.message == 2:
                    return

    reading = asyncio.create_task(asyncio.to_thread(read))
    await wait_until_async(lambda: scripted.topics == ["news"])
    await scripted.deliver("news", 1)
    await scripted.broadcast(RESET)
    await scripted.deliver("news", 2)
    await reading
    assert seen == [1, "reset", 2]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"since": "e1:1", "last": 1}, "exclude"),
        ({"last": -1}, "not negative"),
        ({"last": "1"}, "a number"),
        ({"since": ""}, "a cursor"),
        ({"since": "x" * 129}, "a cursor"),
        ({"since": 5}, "a cursor"),
    ],
)
async def test_a_start_that_cannot_be_is_refused_at_once(
    scripted: ScriptedServer, connect: Connect, options: dict[str, Any], reason: str
) -> None:
    client = await connect(scripted)
    with pytest.raises(InvalidCall, match=reason):
        client.subscribe("news", **options)
    assert scripted.frames == []
