"""Sessions of the server's own code: history, without a subscription. test_feed.py has the feed."""

from typing import Any

import pytest

from dwsps_channels.core.identity import Identity, Role
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.pacing import no_pause
from dwsps_channels.protocol.close_codes import CloseCode
from tests.core.recording import (
    BufferingTransport,
    Client,
    Message,
    World,
    frame,
    is_error,
    publish,
)

READER = Identity("page", role=Role.READER)


def request(topic: str, **fields: Any) -> str:
    return frame("history", topic, id=1, **fields)


def read(client: Client, topic: str, **fields: Any) -> tuple[list[Any], Message]:
    assert client.session.receive(request(topic, **fields)) is None
    *deliveries, ack = client.transport.take_whole()
    return [each["message"] for each in deliveries], ack


def acknowledged(topic: str, cursor: str, *, recovered: bool = True) -> Message:
    return {
        "type": "ack",
        "action": "history",
        "topic": topic,
        "id": 1,
        "cursor": cursor,
        "recovered": recovered,
    }


def test_it_reads_what_is_kept_at_and_below_the_topic(logged: World) -> None:
    for number, topic in enumerate(("chat", "chat.a", "other", "chat")):
        logged.connect().send(publish(topic, number))
    reader = logged.connect(identity=READER)
    assert read(reader, "chat") == ([0, 1, 3], acknowledged("chat", "log:4"))
    assert read(reader, "chat", last=2) == ([1, 3], acknowledged("chat", "log:4"))
    assert read(reader, "chat", last=0) == ([], acknowledged("chat", "log:4"))
    assert read(reader, "chat", since="log:1") == ([1, 3], acknowledged("chat", "log:4"))


def test_what_is_not_all_kept_is_not_recovered(logged: World) -> None:
    reader = logged.connect(identity=READER)
    for since in ("", "another:0", "log:1"):
        expected = acknowledged("chat", "log:0", recovered=False)
        assert read(reader, "chat", since=since) == ([], expected)


def test_it_is_no_subscription(logged: World) -> None:
    reader = logged.connect(identity=READER)
    read(reader, "chat")
    logged.connect().send(publish("chat", 1))
    assert reader.transport.take() == []
    assert ("subscribed", "page", "chat") not in logged.observer.told


def test_the_topic_is_checked(logged: World) -> None:
    [answer] = logged.connect(identity=READER).send(request("a..b"))
    assert is_error(answer, "invalid_topic", action="history", topic="a..b", id=1)


@pytest.mark.parametrize("role", [Role.CLIENT, Role.PEER, Role.PUBLISHER, Role.WORKER])
def test_nobody_else_reads_it(logged: World, role: Role) -> None:
    client = logged.connect(identity=Identity("other", role=role, peer="north"))
    [answer] = client.send(request("chat"))
    assert is_error(answer, "invalid_message", action="history", topic="chat", id=1)


@pytest.mark.parametrize("type", ["subscribe", "publish", "resume", "feed"])
def test_it_does_nothing_else(logged: World, type: str) -> None:
    sent = frame(type, "chat", message=1, id=1)
    [answer] = logged.connect(identity=READER).send(sent)
    assert is_error(answer, "invalid_message", action=type, topic="chat", id=1)


async def test_history_larger_than_the_buffer_comes_as_it_is_read_with_the_cursor_of_its_end(
    logged: World,
) -> None:
    publisher = logged.connect("publisher")
    for number in range(30):
        publisher.send(publish("chat", number))
    transport = BufferingTransport()
    got: list[Message] = []
    most = 0

    async def pause(_: float) -> None:
        nonlocal most
        most = max(most, transport.buffered_bytes)
        got.extend(transport.take_whole())
        publisher.send(publish("chat", "meanwhile"))

    limits = Limits(buffered_bytes=1000)
    reader = logged.connect(identity=READER, limits=limits, transport=transport, pause=pause)

    await reader.start(request("chat", last=100))

    *deliveries, answer = got + transport.take_whole()
    assert [each["message"] for each in deliveries] == list(range(30))
    assert answer["cursor"] == "log:30"
    assert most <= 1000


async def test_a_reader_that_does_not_read_its_history_is_closed(logged: World) -> None:
    publisher = logged.connect("publisher")
    for number in range(30):
        publisher.send(publish("chat", number))
    limits, transport = Limits(buffered_bytes=1000), BufferingTransport()
    reader = logged.connect(identity=READER, limits=limits, transport=transport, pause=no_pause)

    await reader.start(request("chat"))

    assert transport.code == CloseCode.SLOW_CONSUMER
