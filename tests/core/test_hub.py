import json
import tracemalloc
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from dwsps_channels.core.audience import MAX_PARTS, MIN_BROADCAST
from dwsps_channels.core.hub import Hub
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.subscription import Subscriber
from dwsps_channels.protocol.errors import InvalidTopic
from dwsps_channels.protocol.frames import Frame
from tests.core.oracle import Subscriptions
from tests.core.recording import RecordingTransport
from tests.core.strategies import topics

PEOPLE = ["ann", "bob", "cleo"]

steps = st.lists(
    st.tuples(
        st.sampled_from(["subscribe", "subscribe", "unsubscribe", "publish", "publish", "leave"]),
        st.sampled_from(PEOPLE),
        topics(),
    ),
    max_size=40,
)

# So many that their broadcasters come into play, but for small parts of them.
MANY = [f"{number:02}" for number in range(MIN_BROADCAST + 3)]

FAMILY = ["a", "a.a", "a.b", "a.a.a", "a.a.b", "a.b.a", "a.a.a.a"]
changes = st.lists(
    st.tuples(
        st.sampled_from(
            ["subscribe", "subscribe", "all subscribe", "deny", "unsubscribe", "leave"]
        ),
        st.sampled_from(MANY[:4]),
        st.sampled_from(FAMILY[:3]),
        st.sets(st.sampled_from(FAMILY), max_size=3),
    ),
    max_size=20,
)


class Log:
    """Deliveries in the order in which the hub makes them, whoever they go to."""

    def __init__(self) -> None:
        self.deliveries: list[tuple[str, Frame]] = []

    def subscriber(self, who: str) -> Subscriber:
        return Subscriber(Writer(who, self))


class Writer(RecordingTransport):
    """The transport of one of the people, who writes down in the common log."""

    def __init__(self, who: str, log: Log) -> None:
        super().__init__()
        self._who = who
        self._log = log

    def send(self, frame: Frame) -> None:
        self._log.deliveries.append((self._who, frame))


LIMITS = Limits()

STAMP = "2020-01-21T17:03:13.625Z"


def publication(topic: str) -> Publication:
    return Publication(topic=topic, message=Raw(b"1"), timestamp=STAMP)


@given(steps)
def test_matching_equals_a_scan_of_all_subscriptions(steps: list[tuple[str, str, str]]) -> None:
    hub, oracle, log = Hub(), Subscriptions(), Log()
    people = {who: log.subscriber(who) for who in PEOPLE}

    for step, who, topic in steps:
        match step:
            case "subscribe":
                assert hub.subscribe(people[who], topic) == oracle.subscribe(who, topic)
            case "unsubscribe":
                assert hub.unsubscribe(people[who], topic) == oracle.unsubscribe(who, topic)
            case "leave":
                hub.remove(people[who])
                oracle.leave(who)
            case _:
                log.deliveries.clear()
                hub.deliver(publication(topic))
                expected = oracle.deliveries(topic)
                got = [(who, frame.data) for who, frame in log.deliveries]
                assert got == [
                    (who, publication(topic).frame(context).data) for who, context in expected
                ]
                assert hub.reach(topic) == len({who for who, _ in expected})
        for person in people.values():
            assert person.size == sum(len(each.encode()) for each in person.subscriptions)

    for who in PEOPLE:
        hub.remove(people[who])
        assert not people[who].subscriptions
    assert len(hub) == 0


class WritingBroadcaster:
    """Writes down what each of a group is sent, and keeps the groups."""

    def __init__(self) -> None:
        self.groups: list[tuple[Collection[Any], list[Any]]] = []

    def broadcast(self, frame: Frame, group: Collection[Any]) -> None:
        self.groups.append((group, list(group)))
        for transport in group:
            transport.send(frame)


@given(changes)
def test_denied_sub_topics_are_as_in_a_scan_of_all_subscriptions(
    changes: list[tuple[str, str, str, set[str]]],
) -> None:
    hub, oracle, log = Hub(), Subscriptions(), Log()
    people = {who: log.subscriber(who) for who in MANY}
    broadcaster = WritingBroadcaster()
    for who in MANY[2:]:
        people[who].transport.broadcaster = broadcaster  # type: ignore[misc]

    for change, who, topic, family in changes:
        denied = frozenset(each for each in family if each.startswith(f"{topic}."))
        match change:
            case "subscribe":
                assert hub.subscribe(people[who], topic, denied) == oracle.subscribe(
                    who, topic, denied
                )
            case "all subscribe":
                for each in MANY:
                    hub.subscribe(people[each], topic, denied)
                    oracle.subscribe(each, topic, denied)
            case "deny":
                if (subscription := people[who].subscriptions.get(topic)) is not None:
                    hub.deny(subscription, denied)
                    oracle.subscribe(who, topic, denied)
                    assert subscription.denied == denied
            case "unsubscribe":
                assert hub.unsubscribe(people[who], topic) == oracle.unsubscribe(who, topic)
            case _:
                hub.remove(people[who])
                oracle.leave(who)
        for audience in hub._audiences.values():
            kinds = {each.denied for each in audience.subscriptions()} - {frozenset()}
            assert set(audience._denials or ()) == kinds
            assert set(audience.denying or ()) == frozenset().union(*kinds)
        for published in FAMILY:
            log.deliveries.clear()
            hub.deliver(publication(published))
            got = [(who, json.loads(frame.data)["context"]) for who, frame in log.deliveries]
            contexts = [context for _, context in got]
            assert contexts == sorted(contexts, key=len, reverse=True)
            assert sorted(got) == sorted(oracle.deliveries(published))
            reached = {who for who, _ in got}
            assert hub.reach(published) == len(reached)
            for each in MANY[:4]:
                hub.lagging = {people[each]}
                assert (hub.behind(published) is not None) == (each in reached)
            hub.lagging = set(people.values())
            assert (hub.behind(published) is not None) == bool(reached)

    # A broadcaster may keep what it was given.
    assert all(list(group) == as_given for group, as_given in broadcaster.groups)
    for who in MANY:
        hub.remove(people[who])
    assert len(hub) == 0


def test_a_large_audience_is_divided_once_for_a_denied_topic() -> None:
    hub, log, broadcaster = Hub(), Log(), WritingBroadcaster()
    for number, who in enumerate(MANY * 2):
        subscriber = log.subscriber(who)
        subscriber.transport.broadcaster = broadcaster  # type: ignore[misc]
        hub.subscribe(subscriber, "news", frozenset({"news.staff"} if number < 3 else ()))

    for topic in ("news.staff", "news.staff.a", "news", "news.uk", "news.staff"):
        hub.deliver(publication(topic))

    groups = [group for group, _ in broadcaster.groups]
    assert [len(group) for group in groups] == [19, 19, 22, 22, 19]
    assert groups[0] is groups[1] is groups[4]
    assert groups[2] is groups[3]


def test_what_many_are_denied_is_kept_once() -> None:
    hub = Hub()
    subscribers = [Subscriber(RecordingTransport()) for _ in range(1000)]
    tracemalloc.start()
    try:
        for number, subscriber in enumerate(subscribers):
            # Each policy's answer has its own.
            hub.subscribe(subscriber, "a", frozenset(f"a.{n}" for n in range(number % 5, 100)))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 600 * len(subscribers)


def test_the_parts_of_an_audience_are_bounded() -> None:
    """Somebody may be denied a topic for each of many others."""
    hub, log = Hub(), Log()
    denied = frozenset(f"news.{number}" for number in range(1000))
    hub.subscribe(log.subscriber("ann"), "news", denied)
    hub.subscribe(log.subscriber("bob"), "news")
    for topic in sorted(denied):
        hub.deliver(publication(topic))
    assert [who for who, _ in log.deliveries] == ["bob"] * 1000
    parts = hub._audiences["news"]._parts
    assert parts is not None
    assert len(parts) <= MAX_PARTS


def test_all_who_get_a_message_for_the_same_context_get_the_same_frame() -> None:
    hub, log = Hub(), Log()
    for who in PEOPLE:
        subscriber = log.subscriber(who)
        hub.subscribe(subscriber, "news")
        hub.subscribe(subscriber, "news.uk")

    hub.deliver(publication("news.uk"))

    deepest, parents = log.deliveries[:3], log.deliveries[3:]
    assert len({id(frame) for _, frame in deepest}) == 1
    assert len({id(frame) for _, frame in parents}) == 1


def test_a_topic_that_is_none_is_not_delivered() -> None:
    hub, log = Hub(), Log()
    hub.subscribe(log.subscriber("ann"), "news")

    with pytest.raises(InvalidTopic):
        hub.deliver(publication("news..uk"))

    assert log.deliveries == []


def test_reach_counts_a_subscriber_of_several_contexts_once() -> None:
    hub, log = Hub(), Log()
    ann, bob = log.subscriber("ann"), log.subscriber("bob")
    hub.subscribe(ann, "news")
    hub.subscribe(ann, "news.uk")
    hub.subscribe(bob, "news")

    assert hub.reach("news.uk.london") == 2
    assert hub.reach("newsroom") == 0


@given(steps, st.sets(st.sampled_from(PEOPLE)), topics())
def test_one_of_those_that_are_behind_is_found_if_a_publish_reaches_it(
    steps: list[tuple[str, str, str]], lagging: set[str], topic: str
) -> None:
    hub, oracle, log = Hub(), Subscriptions(), Log()
    people = {who: log.subscriber(who) for who in PEOPLE}
    for step, who, subscribed in steps:
        if step == "subscribe":
            hub.subscribe(people[who], subscribed)
            oracle.subscribe(who, subscribed)
    hub.lagging.update(people[who] for who in lagging)

    reached = {people[who].transport for who, _ in oracle.deliveries(topic) if who in lagging}

    found = hub.behind(topic)
    assert found in reached if reached else found is None


def test_a_thousand_subscriptions_take_half_a_megabyte() -> None:
    """The most that a connection may have, by default: topics of 64 KiB together."""
    hub, transport = Hub(), RecordingTransport()
    tracemalloc.start()
    try:
        subscriber = Subscriber(transport)
        for number in range(LIMITS.subscriptions):
            hub.subscribe(subscriber, f"{number:060}.here")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 550 * LIMITS.subscriptions
