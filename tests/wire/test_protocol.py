"""The protocol, end to end, against every server."""

import asyncio
import json

import pytest
from websockets.exceptions import ConnectionClosed

from tests.processes import Server, ServerFactory
from tests.wire.client import connected

# What a server must survive. The first four end a dwsps 1.0.1 server.
BAD_FRAMES: list[tuple[str | bytes, str]] = [
    ("{", "invalid_json"),
    ("null", "invalid_message"),
    ('{"type":"subscribe"}', "invalid_message"),
    ('{"type":"publish","message":1}', "invalid_message"),
    ("", "invalid_json"),
    ("[]", "invalid_message"),
    ("1", "invalid_message"),
    ('"subscribe"', "invalid_message"),
    ('{"type":"shout","topic":"news"}', "invalid_message"),
    ('{"type":"subscribe","topic":5}', "invalid_message"),
    ('{"type":"subscribe","topic":"a..b"}', "invalid_topic"),
    ('{"type":"subscribe","topic":""}', "invalid_topic"),
    ('{"type":"publish","topic":"news"}', "invalid_message"),
    ('{"type":"publish","topic":"news","message":NaN}', "invalid_json"),
    ('{"type":"publish","topic":"news\\ud800","message":1}', "invalid_topic"),
    ('{"type":"subscribe","topic":"\\udc00"}', "invalid_topic"),
    ('{"type":"subscribe","topic":"a","id":"\\ud800"}', "invalid_message"),
    (
        '{"type":"publish","topic":"news","message":' + "[" * 20_000 + "]" * 20_000 + "}",
        "message_too_deep",
    ),
    (
        '{"type":"publish","topic":"news","message":' + "[" * 129 + "]" * 129 + "}",
        "message_too_deep",
    ),
    ('{"type":"publish","topic":"news","message":1,"fromPeerServer":true}', "forbidden"),
    (b"\xff\xfe", "invalid_json"),
    (b"\x00", "invalid_json"),
]


async def test_speaks_on_both_paths(server: Server) -> None:
    for path in ("", "/", "/ws/pubsub/"):
        async with connected(server.url + path) as client:
            await client.subscribe("news")


async def test_subscriber_gets_what_is_published_to_its_topic_and_below(server: Server) -> None:
    async with connected(server.url) as reader, connected(server.url) as writer:
        await reader.subscribe("news")
        for topic in ("newsroom", "sport", "news", "news.uk", "news.uk.london"):
            await writer.publish(topic, {"to": topic})
        offsets = []
        for topic in ("news", "news.uk", "news.uk.london"):
            message = await reader.receive()
            assert message.pop("timestamp").endswith("Z")
            offsets.append(message.pop("offset"))
            assert message == {
                "type": "publish",
                "topic": topic,
                "message": {"to": topic},
                "context": "news",
            }
        assert offsets == [offsets[0], offsets[0] + 1, offsets[0] + 2]
        await reader.nothing_more()


async def test_publisher_gets_its_own_deliveries_deepest_first_and_then_the_ack(
    server: Server,
) -> None:
    async with connected(server.url) as client:
        await client.subscribe("news")
        await client.subscribe("news.uk")
        await client.send({"type": "publish", "topic": "news.uk", "message": None, "id": 7})
        frames = [await client.receive() for _ in range(3)]
        assert [(frame["type"], frame.get("context")) for frame in frames] == [
            ("publish", "news.uk"),
            ("publish", "news"),
            ("ack", None),
        ]
        assert frames[2]["id"] == 7


async def test_unsubscribing_ends_that_subscription_alone(server: Server) -> None:
    async with connected(server.url) as client:
        for topic in ("news", "news.uk", "sport"):
            await client.subscribe(topic)
        for topic in (
            "news",
            "weather",
        ):  # the first one, which dwsps 1.0.1 cannot; and one that never was
            assert (await client.call("unsubscribe", topic))["type"] == "ack"
        await client.publish("news", 1)  # asserts that the ack comes at once
        await client.send({"type": "publish", "topic": "news.uk", "message": 2})
        assert (await client.receive())["context"] == "news.uk"
        assert (await client.receive())["type"] == "ack"
        await client.send({"type": "publish", "topic": "sport", "message": 3})
        assert (await client.receive())["context"] == "sport"


async def test_message_comes_through_byte_for_byte(server: Server) -> None:
    texts = [
        '{"z":123456789012345678901234567890,  "a":[1e999,"\\u00e9\\/☃😀"],"z":null}',
        r'{"\ud83d":["\uDE00\ud83d","\ud83d\ude00","\\ud83d"]}',
    ]
    async with connected(server.url) as reader, connected(server.url) as writer:
        await reader.subscribe("raw")
        for text in texts:
            frame = '{"type":"publish","topic":"raw","id":"\\u0078","message":' + text + "}"
            for sent in (frame, frame.encode()):
                await writer.connection.send(sent)
                assert (await writer.receive()).get("id") == "x"
                assert f'"message":{text},' in str(await reader.connection.recv())


async def test_errors_about_what_cannot_be_read_have_the_id(server: Server) -> None:
    frames: list[str | bytes] = [
        '{"type":"publish","id":7,"topic":"news","message":[1,]}',
        '{"type":"publish","topic":"news","message":NaN,"id":7}',
        b'{"type":"publish","topic":"news","message":"\xff","id":7}',
        '{"type":"publish","topic":"news","message":' + "[" * 20_000 + "]" * 20_000 + ',"id":7}',
        '{"type":"publish","topic":"news","id":7,"message":"' + "x" * 300_000 + '"}',
    ]
    async with connected(server.url) as client:
        for frame in frames:
            await client.connection.send(frame)
            answer = await client.receive()
            told = [answer.get(name) for name in ("type", "action", "topic", "id")]
            assert told == ["error", "publish", "news", 7], frame[:60]


async def test_binary_frames_are_taken_and_text_is_sent(server: Server) -> None:
    async with connected(server.url) as client:
        await client.connection.send(json.dumps({"type": "subscribe", "topic": "☃"}).encode())
        frame = await client.connection.recv()
        assert isinstance(frame, str)
        assert json.loads(frame)["topic"] == "☃"


async def test_publisher_s_timestamp_is_kept(server: Server) -> None:
    async with connected(server.url) as client:
        await client.subscribe("t")
        stamp = "2020-01-21T17:03:13.625Z"
        await client.send({"type": "publish", "topic": "t", "message": 1, "timestamp": stamp})
        assert (await client.receive())["timestamp"] == stamp


async def test_bad_frames_are_answered_and_disturb_nobody(server: Server) -> None:
    async with connected(server.url) as bad, connected(server.url) as other:
        await bad.subscribe("news")
        await other.subscribe("news")
        for frame, code in BAD_FRAMES:
            await bad.connection.send(frame)
            answer = await bad.receive()
            assert (answer["type"], answer["code"], answer["retryable"]) == (
                "error",
                code,
                False,
            ), frame
        await other.publish_and_receive("news", "still here")
        assert (await bad.receive())["message"] == "still here"


@pytest.mark.parametrize("topic", ["__proto__", "length", "1", "☃", "constructor.prototype"])
async def test_topics_that_are_special_elsewhere_are_ordinary(server: Server, topic: str) -> None:
    async with connected(server.url) as client:
        await client.subscribe(topic)
        await client.publish_and_receive(topic, 1)


async def test_what_a_lost_client_was_subscribed_to_is_forgotten(server: Server) -> None:
    async with connected(server.url) as gone:
        await gone.subscribe("news")
        gone.connection.transport.abort()
        with pytest.raises(ConnectionClosed):
            await gone.receive()
    async with connected(server.url) as client:
        await client.subscribe("news")
        await client.publish_and_receive("news", 1)


async def test_wrong_path_is_refused_without_a_traceback(server: Server) -> None:
    with pytest.raises(Exception, match="404"):
        async with connected(server.url + "/nowhere"):
            pass
    assert "Traceback" not in server.log


async def test_hundreds_of_sessions_come_and_go(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(server_kind)

    async def visit(number: int) -> None:
        async with connected(server.url, open_timeout=120) as client:
            for topic in ("news", f"visitor.{number}"):
                await client.subscribe(topic)

    for start in range(0, 400, 100):
        await asyncio.gather(*(visit(number) for number in range(start, start + 100)))
    async with connected(server.url) as client:
        await client.subscribe("news")
        await client.publish_and_receive("news", "nobody else is left")
    assert "Traceback" not in server.log
