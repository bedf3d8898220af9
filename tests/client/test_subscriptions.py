"""Readers of topics: how they begin, what they get, how they end."""

import asyncio
import gc
from typing import Any

import pytest

from dwsps_channels.client import Cancelled, Client, ClientClosed, Message, ServerError
from tests.client.conftest import Connect
from tests.client.scripted import IGNORE, NOW, ScriptedServer
from tests.processes import wait_until_async


async def test_message_has_all_that_came(scripted: ScriptedServer, connect: Connect) -> None:
    client = await connect(scripted)
    async with client.subscribe("news") as messages:
        await scripted.deliver("news.uk", {"n": [1, None]}, {"fromPeerServer": True})
        message = await messages.get()
    assert message == Message(
        topic="news.uk",
        context="news",
        message={"n": [1, None]},
        timestamp=NOW,
        from_peer_server=True,
        raw=b'{"n": [1, null]}',
    )


async def test_raw_is_byte_for_byte_and_large_integers_keep_their_digits(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    async with client.subscribe("a") as messages:
        frame = '{"type":"publish","topic":"a","context":"a","timestamp":"t","message":%s}'
        raw = '{"n":123456789012345678901234567890, "a":"\\u00e9", "b":1}'
        await scripted.broadcast(frame % raw)
        message = await messages.get()
        # As JavaScript writes a text that was cut in the middle of a character.
        await scripted.broadcast(frame % r'["\ud83d","\ud83d\ude00"]')
        cut = await messages.get()
    assert message is not None
    assert message.raw == raw.encode()
    assert message.message == {"n": 123456789012345678901234567890, "a": "é", "b": 1}
    assert cut is not None
    assert cut.raw == rb'["\ud83d","\ud83d\ude00"]'
    assert cut.message == ["\ud83d", "😀"]


async def test_loop_subscribes_and_its_end_unsubscribes(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)

    async def read() -> list[Any]:
        got = []
        async for message in client.subscribe("news"):
            got.append(message.message)
            if message.message == 2:
                break
        return got

    reading = asyncio.create_task(read())
    await wait_until_async(lambda: scripted.topics == ["news"])
    for number in range(5):
        await client.publish("news", number)
    assert await reading == [0, 1, 2]
    gc.collect()
    await wait_until_async(lambda: scripted.topics == [])
    assert client.subscriptions == []


async def test_closing_the_iterator_unsubscribes(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    iterator = aiter(client.subscribe("news"))
    first = asyncio.create_task(anext(iterator))
    await wait_until_async(lambda: scripted.topics == ["news"])
    await client.publish("news", 1)
    assert (await first).message == 1
    await iterator.aclose()
    await wait_until_async(lambda: scripted.topics == [])


async def test_block_stays_subscribed_between_loops(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    got = []
    async with client.subscribe("news") as messages:
        assert scripted.topics == ["news"]  # acknowledged
        for number in range(3):
            await client.publish("news", number)
        async for message in messages:
            got.append(message.message)
            break
        async for message in messages:
            got.append(message.message)
            if message.message == 2:
                break
        assert scripted.topics == ["news"]
    await wait_until_async(lambda: scripted.topics == [])
    assert got == [0, 1, 2]


async def test_block_that_is_cancelled_ends_at_once(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)

    async def read() -> None:
        async with client.subscribe("news") as messages:
            async for _ in messages:
                pass

    reading = asyncio.create_task(read())
    await wait_until_async(lambda: scripted.topics == ["news"])
    scripted.decide = lambda frame: IGNORE  # the answer to the unsubscribe is not waited for
    reading.cancel()
    await asyncio.wait([reading], timeout=20)
    assert reading.cancelled()
    await wait_until_async(lambda: len(scripted.sent("unsubscribe")) == 1)


async def test_subscribe_that_is_cancelled_is_taken_back(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    scripted.held = []
    subscribing = asyncio.create_task(client.subscribe("news").begin())
    await wait_until_async(lambda: scripted.topics == ["news"])
    subscribing.cancel()
    await wait_until_async(lambda: scripted.topics == [])
    assert client.subscriptions == []


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
async def test_callback_gets_each_message_in_order(
    scripted: ScriptedServer, connect: Connect, kind: str
) -> None:
    client = await connect(scripted)
    got: list[Any] = []

    async def slowly(message: Message) -> None:
        await asyncio.sleep(0)
        got.append(message.message)

    def quickly(message: Message) -> None:
        got.append(message.message)

    subscription = await client.subscribe("news", quickly if kind == "function" else slowly)
    assert scripted.topics == ["news"]
    for number in range(20):
        await client.publish("news.uk", number)
    await wait_until_async(lambda: got == list(range(20)))
    await subscription.unsubscribe()
    assert scripted.topics == []
    await client.publish("news", 99)
    assert got == list(range(20))


@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError()], ids=repr)
async def test_exception_in_a_callback_is_logged_and_stops_nothing(
    scripted: ScriptedServer,
    connect: Connect,
    error: BaseException,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = await connect(scripted)
    got = []

    async def fails_once(message: Message) -> None:
        got.append(message.message)
        if len(got) == 1:
            raise error

    await client.subscribe("news", fails_once)
    await client.publish("news", 1)
    await client.publish("news", 2)
    await wait_until_async(lambda: got == [1, 2])
    assert "a callback for 'news'" in caplog.text


async def test_callback_may_publish_unsubscribe_and_close(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    steps: list[str] = []

    async def answer(message: Message) -> None:
        await client.publish("answers", message.message)
        steps.append("published")
        await subscription.unsubscribe()
        steps.append("unsubscribed")
        await client.close()
        steps.append("closed")

    subscription = await client.subscribe("questions", answer)
    await client.publish("questions", 42)
    await wait_until_async(lambda: steps == ["published", "unsubscribed", "closed"])
    assert [frame["topic"] for frame in scripted.sent("publish")] == ["questions", "answers"]


async def test_topic_is_kept_until_its_last_subscription_ends(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    async with client.subscribe("news") as one:
        async with client.subscribe("news") as two, client.subscribe("news.uk") as deeper:
            await client.publish("news.uk", 1)
            got = [await one.get(), await two.get(), await deeper.get()]
            assert [message and message.context for message in got] == ["news", "news", "news.uk"]
        await wait_until_async(lambda: scripted.topics == ["news"])
        await client.publish("news", 2)
        last = await one.get()
        assert last is not None
        assert last.message == 2
    await wait_until_async(lambda: scripted.topics == [])


async def test_unsubscribing_a_topic_ends_all_its_readers(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    async with client.subscribe("news") as one, client.subscribe("news") as two:
        await client.unsubscribe("news")
        assert scripted.topics == []
        assert [message async for message in one] == []
        assert await two.get() is None
    assert len(scripted.sent("unsubscribe")) == 1


async def test_unsubscribing_offline_cancels_what_waited(scripted: ScriptedServer) -> None:
    async with Client(scripted.url) as client:
        subscribing = asyncio.create_task(client.subscribe("news").begin())
        await asyncio.sleep(0)
        await client.unsubscribe("news")
        with pytest.raises(Cancelled):
            await subscribing
        await client.wait_open()
    assert scripted.frames == []


async def test_refused_subscription_is_gone(scripted: ScriptedServer, connect: Connect) -> None:
    client = await connect(scripted)
    refusal = {"code": "forbidden", "reason": "no"}
    scripted.decide = lambda frame: refusal if frame["type"] == "subscribe" else None
    with pytest.raises(ServerError, match="subscribe 'news': forbidden: no"):
        await client.subscribe("news", print)
    with pytest.raises(ServerError):
        async with client.subscribe("news"):
            pass
    with pytest.raises(ServerError):
        async for _ in client.subscribe("news"):
            pass
    assert client.subscriptions == []


async def test_second_subscription_that_is_refused_leaves_the_first(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    async with client.subscribe("news") as first:
        later = {"code": "unavailable", "reason": "later", "retryable": True}
        scripted.decide = lambda frame: later if frame["type"] == "subscribe" else None
        with pytest.raises(ServerError):
            await client.subscribe("news").begin()
        await client.publish("news", 1)
        assert await first.get() is not None
    assert scripted.frames[-1]["type"] == "publish" or scripted.sent("unsubscribe")


async def test_slow_reader_loses_the_oldest_and_holds_up_nobody(
    scripted: ScriptedServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client = await connect(scripted, reader_messages=3)
    async with client.subscribe("news") as slow, client.subscribe("news") as quick:
        for number in range(10):
            await client.publish("news", number)
            message = await quick.get()
            assert message is not None
            assert message.message == number
        assert (slow.dropped, quick.dropped) == (7, 0)
        got = [await slow.get() for _ in range(3)]
        assert [message and message.message for message in got] == [7, 8, 9]
    assert caplog.text.count("a reader of 'news' is too slow") == 1


async def test_what_waits_for_a_reader_is_bounded_in_bytes_too(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted, reader_bytes=1000)
    async with client.subscribe("news") as messages:
        for number in range(5):
            await client.publish("news", [number, "x" * 400])
        got = [await messages.get() for _ in range(2)]
        assert [message and message.message[0] for message in got] == [3, 4]
        await client.publish("news", "x" * 2000)  # one there is always room for
        assert (await messages.get()) is not None
    assert messages.dropped == 3


async def test_burst_in_one_piece_overflows_no_reader_that_reads(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted, reader_messages=200)
    got: list[Any] = []
    subscription = await client.subscribe("news", lambda message: got.append(message.message))
    for number in range(2000):
        await scripted.deliver("news", number)
    await wait_until_async(lambda: got and got[-1] == 1999)
    assert (got, subscription.dropped) == (list(range(2000)), 0)


async def test_readers_end_with_the_client_after_what_waits(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    subscription = client.subscribe("news")
    await subscription.begin()
    await client.publish("news", 1)
    await client.close()
    assert [message.message async for message in subscription] == [1]


async def test_subscription_begins_once(scripted: ScriptedServer, connect: Connect) -> None:
    client = await connect(scripted)
    async with client.subscribe("news") as messages:
        with pytest.raises(RuntimeError):
            await messages.begin()


async def test_callback_must_be_one(scripted: ScriptedServer, connect: Connect) -> None:
    client = await connect(scripted)
    with pytest.raises(TypeError):
        await client.subscribe("news", "not a function")  # type: ignore[call-overload]


async def test_reader_of_a_client_that_the_server_closed_for_good_hears_why(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    async with client.subscribe("news") as messages:
        await scripted.close(4003, "go away")
        with pytest.raises(ClientClosed, match="for good: 4003 go away"):
            await messages.get()
