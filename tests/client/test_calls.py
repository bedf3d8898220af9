"""Publishing, and how answers find their calls."""

import asyncio
import json
import math
from typing import Any

import pytest

from dwsps_channels.client import (
    Ack,
    CallError,
    CallTimeout,
    Client,
    ClientClosed,
    ConnectionLost,
    InvalidCall,
    QueueFull,
    ServerError,
)
from dwsps_channels.protocol.messages import Action
from tests.client.conftest import Connect
from tests.client.scripted import IGNORE, NOW, Frame, ScriptedServer
from tests.processes import wait_until_async


def tasks(*coroutines: Any) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(coroutine) for coroutine in coroutines]


async def chatter(client: Client, call: asyncio.Task[Any]) -> None:
    """Have the server answer others as long as this call lasts."""
    while not call.done():
        await client.publish("chatter", 1)
        await asyncio.wait([call], timeout=0.1)


async def test_publish_returns_after_its_ack(scripted: ScriptedServer, connect: Connect) -> None:
    client = await connect(scripted)
    held = scripted.held = []
    [publish] = tasks(client.publish("news", {"n": 1}))
    await wait_until_async(lambda: held)
    assert not publish.done()
    await held[0]()
    assert await publish == Ack(timestamp=NOW, offset=None)
    [frame] = scripted.frames
    assert (frame["type"], frame["topic"], frame["message"]) == ("publish", "news", {"n": 1})


async def test_answers_find_their_calls_by_id_whatever_their_order(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    scripted.decide = lambda frame: IGNORE
    one, two = tasks(client.publish("a", 1), client.publish("a", 2))
    await wait_until_async(lambda: len(scripted.frames) == 2)
    first, second = (frame["id"] for frame in scripted.frames)
    await scripted.broadcast({"type": "error", "code": "forbidden", "reason": "no", "id": second})
    with pytest.raises(ServerError, match="forbidden: no"):
        await two
    assert not one.done()
    await scripted.broadcast({"type": "ack", "action": "publish", "topic": "a", "id": first})
    await one


async def test_refused_call_raises_the_fields_of_the_error_frame(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    scripted.decide = lambda frame: (
        {"code": "rate_limited", "reason": "too fast", "retryable": True}
        if frame["topic"] == "busy"
        else None
    )
    with pytest.raises(ServerError) as caught:
        await client.publish("busy", 1)
    error = caught.value
    assert (error.action, error.topic, error.code, error.reason, error.retryable) == (
        "publish",
        "busy",
        "rate_limited",
        "too fast",
        True,
    )
    assert str(error) == "publish 'busy': rate_limited: too fast"
    await client.publish("fine", 1)  # the connection lives on


@pytest.mark.parametrize("topic", ["", None, 7, "a\ud800"])
async def test_nothing_is_sent_for_what_is_no_topic(
    scripted: ScriptedServer, connect: Connect, topic: Any
) -> None:
    client = await connect(scripted)
    calls: list[tuple[Action, Any]] = [
        ("publish", client.publish(topic, 1)),
        ("unsubscribe", client.unsubscribe(topic)),
        ("subscribe", client.subscribe(topic, print)),
    ]
    for action, call in calls:
        with pytest.raises(InvalidCall) as caught:
            await call
        assert (caught.value.action, caught.value.code) == (action, "invalid_topic")
        assert not caught.value.retryable
    assert scripted.frames == []


def circle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    "message",
    [object(), {1, 2}, b"bytes", math.nan, math.inf, circle()],
    ids=lambda value: type(value).__name__,
)
async def test_what_is_not_json_is_refused_before_it_is_sent(
    scripted: ScriptedServer, connect: Connect, message: Any
) -> None:
    client = await connect(scripted)
    with pytest.raises(InvalidCall) as caught:
        await client.publish("a", message)
    assert (caught.value.code, isinstance(caught.value, ValueError)) == ("invalid_message", True)
    assert scripted.frames == []


async def test_message_is_what_it_was_when_it_was_published(scripted: ScriptedServer) -> None:
    message = {"n": 1}
    async with Client(scripted.url) as client:
        [publish] = tasks(client.publish("a", message))
        await asyncio.sleep(0)
        message["n"] = 2
        await publish
    assert scripted.frames[0]["message"] == {"n": 1}
    assert scripted.frames[0]["timestamp"].endswith("Z")


async def test_calls_made_before_open_wait_and_subscriptions_go_first(
    scripted: ScriptedServer,
) -> None:
    async with Client(scripted.url) as client:
        assert client.state == "connecting"
        got: list[Any] = []
        publish, subscribe = tasks(
            client.publish("a", 1), client.subscribe("a", lambda message: got.append(message))
        )
        await asyncio.gather(publish, subscribe)
        await wait_until_async(lambda: got)
    assert [frame["type"] for frame in scripted.frames] == ["subscribe", "publish"]
    assert [message.message for message in got] == [1]


async def test_thousand_publishes_in_flight_are_answered_in_order(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    order: list[int] = []

    async def publish(number: int) -> None:
        await client.publish("a", number)
        order.append(number)

    await asyncio.gather(*(publish(number) for number in range(1000)))
    assert order == list(range(1000))
    assert [frame["message"] for frame in scripted.frames] == order


async def test_only_so_many_publishes_wait_and_none_of_them_is_dropped(
    scripted: ScriptedServer,
) -> None:
    async with Client(scripted.url, queue_size=2) as client:
        waiting = tasks(client.publish("a", 1), client.publish("a", 2))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as caught:
            await client.publish("a", 3)
        assert caught.value.retryable
        await asyncio.gather(*waiting)
    assert [frame["message"] for frame in scripted.frames] == [1, 2]


async def test_publish_that_was_cancelled_while_it_waited_is_not_sent(
    scripted: ScriptedServer,
) -> None:
    async with Client(scripted.url, queue_size=2) as client:
        one, two = tasks(client.publish("a", 1), client.publish("a", 2))
        await asyncio.sleep(0)
        one.cancel()
        await asyncio.wait([one])
        await client.publish("a", 3)  # there is room again
        await two
    assert [frame["message"] for frame in scripted.frames] == [2, 3]


async def test_cancelled_publish_in_flight_leaves_its_ack_to_nobody(
    old_server: ScriptedServer, connect: Connect
) -> None:
    client = await connect(old_server)
    held = old_server.held = []
    one, two = tasks(client.publish("a", 1), client.publish("a", 2))
    await wait_until_async(lambda: len(held) == 2)
    one.cancel()
    await held[0]()
    old_server.held = None
    await client.publish("b", 1)  # so that all before it has come in
    assert not two.done()
    await held[1]()
    await two
    assert one.cancelled()


async def test_call_that_a_talking_server_never_answers_times_out(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted, timeout=2.0)
    scripted.decide = lambda frame: IGNORE if frame["topic"] == "hole" else None
    [hole] = tasks(client.publish("hole", 1))
    await chatter(client, hole)
    with pytest.raises(CallTimeout) as caught:
        await hole
    assert (caught.value.code, caught.value.retryable) == ("timeout", True)
    assert isinstance(caught.value, TimeoutError)
    [late] = scripted.sent("publish")[:1]
    await scripted.broadcast(
        {"type": "ack", "action": "publish", "topic": "hole", "id": late["id"]}
    )
    await client.publish("chatter", 1)
    assert len(scripted.requests) == 1


async def test_subscription_that_timed_out_is_taken_back_from_the_server(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted, timeout=2.0)
    scripted.decide = lambda frame: IGNORE if frame["type"] == "subscribe" else None
    [slow] = tasks(client.subscribe("slow", print))
    await chatter(client, slow)
    with pytest.raises(CallTimeout):
        await slow
    await wait_until_async(lambda: len(scripted.sent("unsubscribe")) == 1)
    assert client.subscriptions == []


async def test_late_subscription_brings_nothing_to_one_that_follows_its_timeout(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted, timeout=2.0)
    scripted.decide = lambda frame: IGNORE if frame["topic"] == "slow" else None
    [slow] = tasks(client.subscribe("slow", print))
    await chatter(client, slow)
    with pytest.raises(CallTimeout):
        await slow
    again = client.subscribe("slow")
    [begins] = tasks(again.begin())

    def frames() -> list[Frame]:
        return [frame for frame in scripted.frames if frame["topic"] == "slow"]

    async def answer(frame: Frame) -> None:
        named = {"action": frame["type"], "topic": "slow", "id": frame["id"]}
        await scripted.broadcast({"type": "ack", "timestamp": NOW} | named)

    async def deliver(message: str) -> None:
        delivery = {"topic": "slow", "context": "slow", "message": message}
        await scripted.broadcast({"type": "publish", "timestamp": NOW} | delivery)

    await wait_until_async(lambda: len(frames()) == 3)
    late, *others = frames()
    assert [frame["type"] for frame in others] == ["unsubscribe", "subscribe"]
    await answer(late)
    await deliver("before a gap")
    for frame in others:
        await answer(frame)
    await deliver("after it")
    await begins
    message = await again.get()
    assert message is not None
    assert message.message == "after it"


async def test_close_ends_what_is_not_answered(scripted: ScriptedServer, connect: Connect) -> None:
    client = await connect(scripted)
    scripted.decide = lambda frame: IGNORE
    calls = tasks(client.publish("a", 1), client.subscribe("b", print), client.unsubscribe("c"))
    await wait_until_async(lambda: len(scripted.frames) == 2)
    await client.close()
    await client.close()
    for call in calls[:2]:
        with pytest.raises(ClientClosed, match="the client was closed"):
            await call
    await calls[2]  # nothing was subscribed to, so there was nothing to undo
    assert (client.state, client.subscriptions) == ("closed", [])
    await wait_until_async(lambda: not scripted.sessions)
    late: list[Any] = [
        client.publish("a", 1),
        client.subscribe("a", print),
        client.unsubscribe("a"),
        client.subscribe("a").begin(),
    ]
    for call in late:
        with pytest.raises(ClientClosed):
            await call
    with pytest.raises(RuntimeError):
        client.connect()


async def test_close_ends_calls_that_still_wait_for_a_connection(scripted: ScriptedServer) -> None:
    async with Client(scripted.url) as client:
        calls = tasks(client.publish("a", 1), client.subscribe("b", print))
        await asyncio.sleep(0)
    for call in calls:
        with pytest.raises(ClientClosed):
            await call
    assert scripted.frames == []


async def test_publish_in_flight_when_the_connection_breaks_raises(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    scripted.decide = lambda frame: IGNORE
    [publish] = tasks(client.publish("a", 1))
    await wait_until_async(lambda: scripted.frames)
    scripted.decide = lambda frame: None
    scripted.cut()
    with pytest.raises(ConnectionLost, match="may have arrived") as caught:
        await publish
    assert (caught.value.code, caught.value.retryable) == ("connection_lost", True)
    await client.publish("a", 2)
    assert [frame["message"] for frame in scripted.frames] == [1, 2]  # it is not sent again


async def test_client_that_was_not_told_to_connect_says_so(scripted: ScriptedServer) -> None:
    client = Client(scripted.url)
    with pytest.raises(RuntimeError, match="async with"):
        await client.publish("a", 1)


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{",
        "null",
        "[]",
        '{"type":1}',
        '{"type":"publish"}',
        '{"type":"ack"}',
        '{"type":"error"}',
        b"\xff\xfe",
        '{"type":"publish","topic":"a","context":"a","message":'
        + "[" * 100_000
        + "]" * 100_000
        + "}",
    ],
    ids=range(10),
)
async def test_what_is_no_frame_is_logged_and_stops_nothing(
    scripted: ScriptedServer,
    connect: Connect,
    frame: str | bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = await connect(scripted)
    async with client.subscribe("a"):
        await scripted.broadcast(frame)
        await client.publish("b", 1)
    assert "something that was ignored" in caplog.text
    assert len(scripted.requests) == 1


async def test_frames_of_a_later_protocol_are_not_for_this_client(
    scripted: ScriptedServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client = await connect(scripted)
    await scripted.broadcast({"type": "hello", "server": "x", "topic": ["odd"], "id": {}})
    await scripted.broadcast({"type": "ack", "action": "publish", "topic": "a", "id": "mine"})
    await scripted.broadcast({"type": "ack", "action": "publish", "topic": [], "id": 99})
    await client.publish("a", 1)
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


async def test_errors_are_one_family() -> None:
    for kind in (ConnectionLost, CallTimeout, QueueFull, ClientClosed):
        error = kind("publish", "a", "why")
        assert isinstance(error, CallError)
        assert json.dumps([error.code, error.reason, error.retryable])


async def test_error_that_names_no_request_answers_the_oldest(
    scripted: ScriptedServer, connect: Connect
) -> None:
    client = await connect(scripted)
    scripted.decide = lambda frame: IGNORE
    calls = [asyncio.create_task(client.publish(topic, 1)) for topic in ("a", "b")]
    await wait_until_async(lambda: len(scripted.frames) == 2)
    final_frame = {"type": "error", "code": "unavailable", "reason": "going", "retryable": True}
    await scripted.broadcast(final_frame)  # is about the connection
    for code in ("invalid_json", "message_too_large"):
        await scripted.broadcast({"type": "error", "code": code, "reason": "no"})
    for call, code in zip(calls, ("invalid_json", "message_too_large"), strict=True):
        with pytest.raises(ServerError) as caught:
            await call
        assert (caught.value.code, caught.value.action) == (code, "publish")
