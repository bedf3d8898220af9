"""Against a server that answers as dwsps 1.0.1 does."""

import asyncio
from functools import partial
from typing import Any

import pytest

from dwsps_channels.client import ConnectionLost
from tests.client.conftest import Connect
from tests.client.scripted import ScriptedServer
from tests.processes import wait_until_async


def _is_last(words: list[str], word: str) -> bool:
    return words[-1:] == [word]


async def test_acks_without_ids_settle_calls_in_order_by_action_and_topic(
    old_server: ScriptedServer, connect: Connect
) -> None:
    client = await connect(old_server)
    settled: list[str] = []

    async def note(word: str, call: Any) -> None:
        await call
        settled.append(word)

    existing = await client.subscribe("b", print)
    held = old_server.held = []
    words = ["subscribe a", "publish a 1", "publish b", "publish a 2", "unsubscribe b"]
    calls: list[Any] = [
        client.subscribe("a", print),
        client.publish("a", 1),
        client.publish("b", 1),
        client.publish("a", 2),
        existing.unsubscribe(),
    ]
    noting = [asyncio.create_task(note(*pair)) for pair in zip(words, calls, strict=True)]
    await wait_until_async(lambda: len(held) == 5)
    for answer, word in zip(held, words, strict=True):
        await answer()
        await wait_until_async(partial(_is_last, settled, word))
    assert settled == words
    await asyncio.gather(*noting)


async def test_messages_reach_their_readers_with_the_publishers_timestamp(
    old_server: ScriptedServer, connect: Connect
) -> None:
    client = await connect(old_server)
    async with client.subscribe("news") as messages:
        await client.publish("news.uk", {"n": 1})
        message = await messages.get()
    assert message is not None
    assert (message.topic, message.context, message.message) == ("news.uk", "news", {"n": 1})
    assert message.timestamp == old_server.sent("publish")[0]["timestamp"]


async def test_delivery_without_timestamp_message_or_context_is_taken(
    old_server: ScriptedServer, connect: Connect
) -> None:
    client = await connect(old_server)
    async with client.subscribe("a") as messages:
        await old_server.broadcast({"type": "publish", "topic": "a"})
        message = await messages.get()
    assert message is not None
    assert (message.context, message.message, message.timestamp) == ("a", None, "")


async def test_it_reconnects_and_subscribes_again(
    old_server: ScriptedServer, connect: Connect
) -> None:
    resets: list[list[str]] = []
    client = await connect(old_server, on_reset=resets.append)
    await client.subscribe("a", print)
    await old_server.kill()
    await wait_until_async(lambda: client.state == "reconnecting")
    await old_server.start()
    await client.wait_open()
    assert old_server.topics == ["a"]
    # It keeps no messages, so some may be missing.
    assert (resets, client.cursor) == ([["a"]], "")


async def test_a_publish_that_was_in_flight_is_not_sent_again(
    old_server: ScriptedServer, connect: Connect
) -> None:
    client = await connect(old_server)
    await client.publish("a", 0)
    old_server.held = []
    publishing = asyncio.create_task(client.publish("a", 1))
    await wait_until_async(lambda: old_server.held)
    old_server.held = None
    old_server.cut()
    with pytest.raises(ConnectionLost):
        await publishing
    await client.publish("a", 2)
    assert [frame["message"] for frame in old_server.sent("publish")] == [0, 1, 2]
