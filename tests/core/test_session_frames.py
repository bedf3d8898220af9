"""Frames that cannot be handled: an answer for each, and the session lives on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.core.limits import Limits
from tests.clock import Clock
from tests.core.oracle import answer, has_duplicate_names, is_id, read_json
from tests.core.recording import World, ack, is_error, publish, subscribe, unsubscribe
from tests.core.strategies import frames

# What made dwsps 1.0.1 end, with all of its connections.


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", "invalid_json"),
        ("hello", "invalid_json"),
        ("", "invalid_json"),
        ("null", "invalid_message"),
        ("[]", "invalid_message"),
        ("5", "invalid_message"),
        ("{}", "invalid_message"),
        ('{"type":"subscribe"}', "invalid_message"),
        ('{"type":"unsubscribe"}', "invalid_message"),
        ('{"type":"publish","message":1}', "invalid_message"),
        ('{"type":"subscribe","topic":null}', "invalid_message"),
        ('{"type":"publish","topic":5,"message":1}', "invalid_message"),
        ('{"type":"publish","topic":{},"message":1}', "invalid_message"),
        ('{"type":"subscribe","topic":""}', "invalid_topic"),
    ],
)
def test_what_ended_dwsps_is_answered_and_everybody_lives_on(
    world: World, frame: str, code: str
) -> None:
    other = world.connect("other")
    other.send(subscribe("news"))
    client = world.connect()

    for _ in range(2):
        (told,) = client.send(frame)
        assert (told["type"], told["code"]) == ("error", code)

    assert client.send(publish("news")) == [ack("publish", "news")]
    assert [each["type"] for each in other.transport.take()] == ["publish"]


# Limits.


def test_the_limit_of_subscriptions_counts_topics(world: World) -> None:
    client, other = world.connect("one", limits=Limits(subscriptions=2)), world.connect("other")
    client.send(subscribe("a"))
    client.send(subscribe("b"))

    (told,) = client.send(subscribe("c", id=1))
    assert is_error(told, "too_many_subscriptions", action="subscribe", topic="c", id=1)
    assert client.send(publish("c")) == [ack("publish", "c")]

    assert client.send(subscribe("a")) == [ack("subscribe", "a")]
    client.send(unsubscribe("a"))
    assert client.send(subscribe("c")) == [ack("subscribe", "c")]
    assert other.send(subscribe("c")) == [ack("subscribe", "c")]


def test_the_bytes_of_all_topics_are_limited(world: World) -> None:
    client, other = (
        world.connect("one", limits=Limits(subscription_bytes=10)),
        world.connect("other", limits=Limits(subscription_bytes=10)),
    )
    for topic in ("aaaa", "☃☃", "aaaa"):
        assert client.send(subscribe(topic)) == [ack("subscribe", topic)]

    (told,) = client.send(subscribe("b", id=1))
    assert is_error(told, "too_many_subscriptions", action="subscribe", topic="b", id=1)
    assert told["reason"] == "a connection may have 10 bytes of topics"
    assert client.send(publish("b")) == [ack("publish", "b")]
    assert other.send(subscribe("b")) == [ack("subscribe", "b")]

    client.send(unsubscribe("☃☃"))
    client.send(unsubscribe("nothing"))
    assert client.send(subscribe("bbbbbb")) == [ack("subscribe", "bbbbbb")]
    assert client.send(subscribe("c"))[0]["code"] == "too_many_subscriptions"


@pytest.mark.parametrize("binary", [False, True])
def test_a_message_that_is_too_large_is_refused_with_its_id(world: World, binary: bool) -> None:
    client = world.connect()
    client.send(subscribe("news"))

    def sized(size: int) -> str | bytes:
        padding = size - len(publish("news", "", id="x"))
        text = publish("news", "x" * padding, id="x")
        return text.encode() if binary else text

    assert [each["type"] for each in client.send(sized(64 * 1024))] == ["publish", "ack"]
    (told,) = client.send(sized(64 * 1024 + 1))

    assert is_error(told, "message_too_large", action="publish", topic="news", id="x")
    assert told["reason"] == "the message has 65537 bytes, the limit is 65536"
    assert client.send(publish("news", "x"))[1] == ack("publish", "news")


def test_a_message_that_the_door_did_not_keep_is_refused_with_its_id(world: World) -> None:
    client = world.connect(limits=Limits(rate=1.0, burst=1), clock=Clock())
    head = b'{"type":"publish","topic":"news","message":"xxx'
    tail = b'xxx","timestamp":"2026-11-21T19:37:17.458Z","id":"x"}'

    client.session.receive_too_large(100_000, head, tail)
    (told,) = client.transport.take()
    assert is_error(told, "message_too_large", action="publish", topic="news", id="x")
    assert told["reason"] == "the message has 100000 bytes, the limit is 65536"

    client.session.receive_too_large(100_000, head, tail)
    (told,) = client.transport.take()
    assert is_error(told, "rate_limited", action="publish", topic="news", id="x")


def test_who_sends_too_fast_is_told_and_may_try_again(world: World) -> None:
    clock = Clock()
    client = world.connect(limits=Limits(rate=2.0, burst=3), clock=clock)
    for id in range(3):
        assert client.send(publish("news", id=id)) == [ack("publish", "news", id=id)]

    (told,) = client.send(publish("news", id=3))
    assert is_error(told, "rate_limited", action="publish", topic="news", id=3)
    assert len(world.broker.taken) == 3

    clock.now += 0.5
    assert client.send(publish("news", id=3)) == [ack("publish", "news", id=3)]


def test_frames_that_are_not_understood_count_against_the_rate_too(world: World) -> None:
    client = world.connect(limits=Limits(rate=1.0, burst=4), clock=Clock())

    codes = [
        client.send(frame)[0]["code"]
        for frame in ("{", "null", subscribe(""), "x" * 70_000, "{", "null")
    ]

    assert codes == [
        "invalid_json",
        "invalid_message",
        "invalid_topic",
        "message_too_large",
        "rate_limited",
        "rate_limited",
    ]


def test_bytes_are_limited_too(world: World) -> None:
    """Of UTF-8, for text that comes as text as well."""
    clock = Clock()
    client = world.connect(limits=Limits(rate_bytes=100.0, burst_bytes=1000), clock=clock)
    frame = f'{{"type":"publish","topic":"news","message":"{"ä" * 300}","id":1}}'
    size = len(frame.encode())
    assert 600 < size < 700
    assert client.send(frame) == [ack("publish", "news", id=1)]

    clock.now += (2 * size - 1000 - 1) / 100
    (told,) = client.send(frame)
    assert is_error(told, "rate_limited", action="publish", topic="news", id=1)
    assert told["reason"] == "a connection may send 100 bytes a second"

    clock.now += 0.011
    assert client.send(frame.encode()) == [ack("publish", "news", id=1)]


def test_a_client_that_keeps_sending_above_its_rate_is_closed(world: World) -> None:
    client = world.connect(limits=Limits(rate=1.0, burst=1), clock=Clock())
    client.send(publish("news"))
    for id in range(1000):
        (told,) = client.send(publish("news", id=id))
        assert is_error(told, "rate_limited", action="publish", topic="news", id=id)

    assert client.send(publish("news", id=1000)) == []
    assert client.transport.code == 4102
    assert client.transport.discarded
    assert is_error(client.transport.final_frame, "rate_limited")
    assert client.send(publish("news")) == []


def test_messages_that_the_door_did_not_keep_count_and_so_do_pings(world: World) -> None:
    client = world.connect(limits=Limits(rate=1.0, burst=1), clock=Clock())
    for _ in range(500):
        client.session.receive_control(6)
    for _ in range(501):
        client.session.receive_too_large(100_000, b"", b"")
    assert len(client.transport.take()) == 501
    client.session.receive_too_large(100_000, b"", b"")
    assert client.transport.code == 4102
    client.session.receive_control(6)


def test_without_a_rate_nothing_is_counted(world: World) -> None:
    client = world.connect()
    for _ in range(2000):
        client.session.receive_control(6)
    assert client.transport.code is None


def test_each_connection_has_a_rate_of_its_own(world: World) -> None:
    limits, clock = Limits(rate=1.0, burst=1), Clock()
    one, two = (
        world.connect("one", limits=limits, clock=clock),
        world.connect("two", limits=limits, clock=clock),
    )

    assert one.send(publish("news")) == two.send(publish("news")) == [ack("publish", "news")]


def test_deep_nesting_is_answered_and_the_session_lives_on(world: World) -> None:
    client = world.connect()

    for frame in ('{"a":' * 10_000, publish("a").replace('"hello"', "[" * 30_000 + "]" * 30_000)):
        (told,) = client.send(frame)
        assert told["code"] == "message_too_deep"

    assert client.send(subscribe("a")) == [ack("subscribe", "a")]


def test_a_message_that_is_nested_too_deeply_is_refused_with_its_id(world: World) -> None:
    client = world.connect(limits=Limits(message_depth=2))
    client.send(subscribe("a"))

    assert [each["type"] for each in client.send(publish("a", [[1], [2]]))] == ["publish", "ack"]
    (told,) = client.send(publish("a", [[[1]]], id=7))

    assert is_error(told, "message_too_deep", action="publish", topic="a", id=7)
    assert told["reason"] == "the message is nested more than 2 levels deep"


# Any frame at all.


@given(st.lists(frames(), min_size=1, max_size=3))
def test_every_frame_gets_exactly_one_answer(sent: list[str | bytes]) -> None:
    world = World()
    client = world.connect()

    for frame in sent:
        (told,) = [each for each in client.send(frame) if each["type"] != "publish"]

        assert told["type"] == "ack" or is_error(
            told,
            told["code"],
            **{name: told[name] for name in ("action", "topic", "id") if name in told},
        )
        expected = answer(frame)
        if expected == "invalid_json":
            assert told["code"] in ("invalid_json", "invalid_message")
            if "id" in told:  # found in what could not be read
                assert is_id(told["id"])
            continue
        request = read_json(frame)
        if not has_duplicate_names(frame):
            assert told.get("code", "ack") == expected
        if isinstance(request, dict) and is_id(request.get("id")):
            assert told["id"] == request["id"]
        else:
            assert "id" not in told

    assert client.send(subscribe("still.here", id=0)) == [ack("subscribe", "still.here", id=0)]
    client.session.closed()
    assert world.is_empty()
