import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from dwsps_channels.core.audience import Subscriber
from dwsps_channels.core.hub import Hub
from dwsps_channels.core.publication import Publication
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


STAMP = "2020-01-21T17:03:13.625Z"


def publication(topic: str) -> Publication:
    return Publication(topic=topic, message=Raw(b"1"), timestamp=STAMP)


def quiet_hub() -> Hub:
    return Hub("here", lambda publication: None)


@given(steps)
def test_matching_equals_a_scan_of_all_subscriptions(steps: list[tuple[str, str, str]]) -> None:
    hub, oracle, log = quiet_hub(), Subscriptions(), Log()
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
            assert person.size == sum(len(each.encode()) for each in person.topics)

    for who in PEOPLE:
        hub.remove(people[who])
        assert not people[who].topics
    assert not hub._audiences


def test_all_who_get_a_message_for_the_same_context_get_the_same_frame() -> None:
    hub, log = quiet_hub(), Log()
    for who in PEOPLE:
        subscriber = log.subscriber(who)
        hub.subscribe(subscriber, "news")
        hub.subscribe(subscriber, "news.uk")

    hub.deliver(publication("news.uk"))

    deepest, parents = log.deliveries[:3], log.deliveries[3:]
    assert len({id(frame) for _, frame in deepest}) == 1
    assert len({id(frame) for _, frame in parents}) == 1


def test_publishing_delivers_here_first_and_then_hands_over() -> None:
    log = Log()
    seen: list[tuple[Publication, int]] = []
    hub = Hub("here", lambda publication: seen.append((publication, len(log.deliveries))))
    hub.subscribe(log.subscriber("ann"), "news")

    assert hub.publish("news", Raw(b"1"), STAMP) is None

    [(published, delivered_before)] = seen
    assert delivered_before == 1
    assert (published.topic, bytes(published.message), published.timestamp) == ("news", b"1", STAMP)
    assert (published.origin, published.sequence, published.from_peer_server) == ("here", 1, False)


def test_what_another_process_published_is_not_handed_over_again() -> None:
    seen: list[Publication] = []
    hub = Hub("here", seen.append)

    hub.receive(publication("news"))

    assert seen == []


def test_a_topic_that_is_none_is_neither_delivered_nor_handed_over() -> None:
    seen: list[Publication] = []
    hub = Hub("here", seen.append)

    with pytest.raises(InvalidTopic):
        hub.publish("news..uk", Raw(b"1"), STAMP)

    assert seen == []


def test_reach_counts_a_subscriber_of_several_contexts_once() -> None:
    hub, log = quiet_hub(), Log()
    ann, bob = log.subscriber("ann"), log.subscriber("bob")
    hub.subscribe(ann, "news")
    hub.subscribe(ann, "news.uk")
    hub.subscribe(bob, "news")

    assert hub.reach("news.uk.london") == 2
    assert hub.reach("newsroom") == 0
