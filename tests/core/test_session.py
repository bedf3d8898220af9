"""The rules of docs/reference/protocol.md for one connection, where policy and broker answer at once."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Unavailable
from tests.core.oracle import Subscriptions
from tests.core.recording import (
    SERVER_TIMESTAMP,
    STAMP,
    Message,
    World,
    ack,
    delivery,
    future,
    is_error,
    peer,
    publish,
    subscribe,
    unsubscribe,
)
from tests.core.strategies import json_texts, topics

# Subscribing and unsubscribing.


def test_a_subscriber_gets_its_topic_and_what_is_below_and_nothing_else(world: World) -> None:
    reader, writer = world.connect("reader"), world.connect("writer")
    assert reader.send(subscribe("news")) == [ack("subscribe", "news")]

    for topic in ("news", "news.uk", "news.uk.london", "newsroom", "new", "sport.news", "News"):
        writer.send(publish(topic, timestamp=STAMP))

    assert reader.transport.take() == [
        delivery("news", "news"),
        delivery("news.uk", "news"),
        delivery("news.uk.london", "news"),
    ]


def test_the_first_subscription_can_be_undone(world: World) -> None:
    client = world.connect()
    client.send(subscribe("first"))
    client.send(subscribe("second"))

    assert client.send(unsubscribe("first")) == [ack("unsubscribe", "first")]

    assert client.send(publish("first")) == [ack("publish", "first")]
    assert len(client.send(publish("second"))) == 2


def test_the_only_subscription_can_be_undone(world: World) -> None:
    client = world.connect()
    client.send(subscribe("news"))

    client.send(unsubscribe("news"))

    assert client.send(publish("news")) == [ack("publish", "news")]
    assert world.is_empty()


def test_unsubscribing_from_what_one_is_not_subscribed_to_removes_nothing(world: World) -> None:
    client, other = world.connect("one"), world.connect("other")
    client.send(subscribe("first"))
    client.send(subscribe("last"))
    other.send(subscribe("theirs"))

    for topic in ("unknown", "theirs", "first.below", "fir"):
        assert client.send(unsubscribe(topic, id=1)) == [ack("unsubscribe", topic, id=1)]

    for topic in ("first", "last"):
        assert len(client.send(publish(topic))) == 2
    client.send(publish("theirs"))
    assert len(other.transport.take()) == 1
    assert not [told for told in world.observer.told if told[0] == "unsubscribed"]


def test_unsubscribing_from_a_parent_leaves_the_child(world: World) -> None:
    client = world.connect()
    client.send(subscribe("news"))
    client.send(subscribe("news.uk"))

    client.send(unsubscribe("news"))

    assert client.send(publish("news.uk", timestamp=STAMP)) == [
        delivery("news.uk", "news.uk"),
        ack("publish", "news.uk"),
    ]
    assert client.send(publish("news")) == [ack("publish", "news")]


def test_subscribing_twice_is_one_subscription(world: World) -> None:
    client = world.connect()
    for id in (1, 2):
        assert client.send(subscribe("news", id=id)) == [ack("subscribe", "news", id=id)]

    assert len(client.send(publish("news"))) == 2
    client.send(unsubscribe("news"))
    assert client.send(publish("news")) == [ack("publish", "news")]
    assert world.observer.told.count(("subscribed", "one", "news")) == 1


@pytest.mark.parametrize(
    "topic", ["__proto__", "length", "1", "☃", "constructor", "toString", "😀", "0"]
)
def test_names_that_mean_something_elsewhere_are_ordinary_topics(world: World, topic: str) -> None:
    client = world.connect()
    assert client.send(subscribe(topic)) == [ack("subscribe", topic)]

    assert client.send(publish(f"{topic}.{topic}", timestamp=STAMP)) == [
        delivery(f"{topic}.{topic}", topic),
        ack("publish", f"{topic}.{topic}"),
    ]
    client.send(unsubscribe(topic))
    assert client.send(publish(topic)) == [ack("publish", topic)]


# Publishing.


def test_subscribers_of_topic_and_parent_get_a_copy_for_each_deepest_first(world: World) -> None:
    client = world.connect()
    client.send(subscribe("news"))
    client.send(subscribe("news.uk"))

    assert client.send(publish("news.uk.london", timestamp=STAMP)) == [
        delivery("news.uk.london", "news.uk"),
        delivery("news.uk.london", "news"),
        ack("publish", "news.uk.london"),
    ]


def test_the_publishers_own_delivery_comes_before_its_ack(world: World) -> None:
    client = world.connect()
    client.send(subscribe("news"))

    got = client.send(publish("news", id=1))

    assert [each["type"] for each in got] == ["publish", "ack"]
    assert got[1]["id"] == 1
    assert "id" not in got[0]


def test_without_the_publishers_timestamp_the_servers_is_used(world: World) -> None:
    client = world.connect()
    client.send(subscribe("news"))

    (got, _) = client.send(publish("news"))

    assert SERVER_TIMESTAMP.fullmatch(got["timestamp"])


@pytest.mark.parametrize("stamp", [STAMP, "2020-01-21T17:03:13+02:00", "1998-12-31T23:59:60Z"])
def test_the_publishers_timestamp_is_kept_as_it_is(world: World, stamp: str) -> None:
    client = world.connect()
    client.send(subscribe("news"))

    (got, _) = client.send(publish("news", timestamp=stamp))

    assert got["timestamp"] == stamp


@given(json_texts(), st.booleans())
def test_a_message_reaches_subscribers_byte_for_byte(text: str, binary: bool) -> None:
    world = World()
    reader, writer = world.connect("reader"), world.connect("writer")
    reader.send(subscribe("a"))
    frame = f'{{"message": {text} ,"timestamp":"{STAMP}","topic":"a.b","type":"publish"}}'

    assert writer.send(frame.encode() if binary else frame) == [ack("publish", "a.b")]

    (delivered,) = reader.transport.frames
    assert (
        delivered.data
        == (
            f'{{"type":"publish","timestamp":"{STAMP}","topic":"a.b","message":{text},"context":"a","offset":1}}'
        ).encode()
    )
    assert delivered.text.encode() == delivered.data


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "123456789012345678901234567890",
        "1e999",
        "-0",
        "1.0",
        '{"b":1,"a":2,"b":3}',
        '{ "a" :\t[ 1 ,\r\n2 ] }',
        '"\\u2603\\/\\ud83d\\ude00"',
        '"☃😀\u2028"',
        "[" * 128 + "]" * 128,
        "9" * 10_000,
    ],
)
def test_a_message_is_never_read_and_written_again(world: World, text: str) -> None:
    client = world.connect()
    client.send(subscribe("a"))

    assert client.session.receive(f'{{"type":"publish","topic":"a","message":{text}}}') is None

    delivered, _ = client.transport.frames
    assert f'"message":{text},"context"' in delivered.text


def test_fields_that_the_protocol_does_not_name_are_dropped(world: World) -> None:
    client = world.connect()
    client.send(subscribe("news", everything=True, context="sport"))

    got = client.send(
        publish("news", timestamp=STAMP, id=1, ttl=5, client="x", code=1, from_peer_server=True)
    )

    assert got == [delivery("news", "news"), ack("publish", "news", id=1)]
    assert not world.broker.taken[0].from_peer_server


@pytest.mark.parametrize("context", ["sport", None, 5, {"a": []}])
def test_context_from_a_client_is_ignored(world: World, context: object) -> None:
    client = world.connect()
    client.send(subscribe("news"))

    got = client.send(publish("news", timestamp=STAMP, context=context))

    assert got == [delivery("news", "news"), ack("publish", "news")]


def test_each_publish_is_handed_to_the_broker_once_whoever_subscribes(world: World) -> None:
    clients = [world.connect(str(number)) for number in range(3)]
    for client in clients:
        client.send(subscribe("news"))
        client.send(subscribe("news.uk"))

    clients[0].send(publish("news.uk", {"a": 1}, timestamp=STAMP))

    (handed_over,) = world.broker.taken
    assert (handed_over.topic, bytes(handed_over.message), handed_over.timestamp) == (
        "news.uk",
        b'{"a": 1}',
        STAMP,
    )
    assert not handed_over.from_peer_server


def test_to_keep_a_message_is_not_to_keep_its_frame(world: World) -> None:
    client = world.connect()
    frames = [publish("news", 1, padding="x" * 60_000) for _ in range(100)]

    tracemalloc.start()
    try:
        for frame in frames:
            client.send(frame)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(world.broker.taken) == 100
    assert kept < 1_000_000


# Messages of other servers.


def test_an_ordinary_client_may_not_send_as_a_peer(world: World) -> None:
    client = world.connect()
    client.send(subscribe("news"))

    (told,) = client.send(publish("news", fromPeerServer=True, id=1))

    assert is_error(told, "forbidden", action="publish", topic="news", id=1)
    assert world.broker.taken == []
    assert len(client.send(publish("news"))) == 2


def test_to_say_that_one_is_no_peer_is_fine(world: World) -> None:
    client = world.connect()
    client.send(subscribe("news"))

    got = client.send(publish("news", timestamp=STAMP, fromPeerServer=False))

    assert got == [delivery("news", "news"), ack("publish", "news")]


def test_a_peer_relays_and_the_flag_goes_with_the_message(world: World) -> None:
    client, link = world.connect(), world.connect(identity=peer("link"))
    client.send(subscribe("news"))

    assert link.send(publish("news", timestamp=STAMP, fromPeerServer=True)) == [
        ack("publish", "news")
    ]
    link.send(publish("news", timestamp=STAMP))

    relayed, organic = client.transport.take()
    assert relayed == delivery("news", "news") | {"fromPeerServer": True}
    assert organic == delivery("news", "news")
    assert [publication.from_peer_server for publication in world.broker.taken] == [True, False]


# Many clients.

steps = st.lists(
    st.tuples(
        st.sampled_from(["subscribe", "subscribe", "unsubscribe", "publish", "publish", "leave"]),
        st.sampled_from(["ann", "bob", "cleo"]),
        topics(),
    ),
    max_size=30,
)


@given(steps)
def test_clients_get_what_a_scan_of_all_subscriptions_says(
    steps: list[tuple[str, str, str]],
) -> None:
    world, oracle = World(), Subscriptions()
    clients = {who: world.connect(who) for who in ("ann", "bob", "cleo")}

    for number, (step, who, topic) in enumerate(steps):
        expected: dict[str, list[Message]] = {each: [] for each in clients}
        match step:
            case "subscribe":
                oracle.subscribe(who, topic)
                got = clients[who].send(subscribe(topic))
            case "unsubscribe":
                oracle.unsubscribe(who, topic)
                got = clients[who].send(unsubscribe(topic))
            case "publish":
                for reader, context in oracle.deliveries(topic):
                    expected[reader].append(delivery(topic, context, number))
                got = clients[who].send(publish(topic, number, timestamp=STAMP))
            case _:
                oracle.leave(who)
                clients[who].session.closed()
                clients[who] = world.connect(who)
                continue
        expected[who].append(ack(step, topic))
        for each, client in clients.items():
            assert (got if each == who else client.transport.take()) == expected[each]

    for client in clients.values():
        client.session.closed()
    assert world.is_empty()


# Events.


def test_events_are_told_once_each_and_in_order(world: World) -> None:
    client = world.connect()
    for frame in (
        subscribe("news"),
        subscribe("news"),
        publish("news", {"a": 1}),
        publish("nobody", None),
        unsubscribe("unknown"),
        unsubscribe("news"),
        unsubscribe("news"),
        subscribe("sport"),
        subscribe(""),
        publish("news", fromPeerServer=True),
        "{",
    ):
        client.send(frame)
    client.session.close(CloseCode.GOING_AWAY, Unavailable("the server is going away"))
    client.session.closed()

    assert world.observer.told == [
        ("connected", "one"),
        ("subscribed", "one", "news"),
        ("published", "one", "news", '{"a": 1}'),
        ("published", "one", "nobody", "null"),
        ("unsubscribed", "one", "news"),
        ("subscribed", "one", "sport"),
        ("disconnected", "one"),
    ]


async def test_a_publish_that_the_broker_refuses_at_once_is_no_event(world: World) -> None:
    client = world.connect()
    world.broker.answer = refused = future()
    refused.set_exception(Unavailable("redis is away"))
    client.send(publish("news", 1))
    world.broker.answer = None
    client.send(publish("news", 2))
    assert [event for event in world.observer.told if event[0] == "published"] == [
        ("published", "one", "news", "2")
    ]
