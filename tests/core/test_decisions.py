"""The answers of a policy that say more than yes or no: a reason, and sub-topics that a subscription does not get."""

from typing import Any

import pytest

from dwsps_channels.core.identity import Identity
from dwsps_channels.core.policy import Decision
from tests.core.recording import (
    STAMP,
    Client,
    Message,
    World,
    ack,
    delivery,
    future,
    is_error,
    publish,
    resume,
    subscribe,
)


class Rules:
    """The policy that answers with what the test has put into ``answers`` for the topic."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def may_subscribe(self, identity: Identity, topic: str) -> Any:
        answer = self.answers.get(topic, False)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def may_publish(self, identity: Identity, topic: str) -> Any:
        return self.may_subscribe(identity, topic)


NO_STAFF = Decision(True, denied=("news.staff",))


def denied(*topics: str) -> Decision:
    return Decision(True, denied=topics)


def messages(client: Client) -> list[Any]:
    return [each["message"] for each in client.transport.take() if each["type"] == "publish"]


def refusal(action: str, topic: str, reason: str) -> Message:
    return {
        "type": "error",
        "code": "forbidden",
        "reason": reason,
        "retryable": False,
        "action": action,
        "topic": topic,
    }


# What a decision is.


def test_a_decision_is_true_if_it_allows() -> None:
    assert Decision(True)
    assert not Decision(False, denied=("news.staff",))


def test_a_single_text_denies_nothing_by_mistake() -> None:
    with pytest.raises(TypeError, match="'denied' is a tuple of topics"):
        Decision(True, denied="news.staff")  # type: ignore[arg-type]


@pytest.mark.parametrize("topic", ["", "news.", "news..staff", "news staff", "$dwsps"])
def test_what_is_no_topic_cannot_be_denied(topic: str) -> None:
    with pytest.raises(
        ValueError, match=f"^'{topic}' cannot be denied: the topic ".replace("$", r"\$")
    ):
        Decision(True, denied=("news.uk", topic))


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_nothing_is_rechecked_all_the_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="'recheck_after' is a number of seconds above 0"):
        Decision(True, recheck_after=seconds)


# Reasons.


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (False, "not allowed to {} 'news'"),
        (Decision(False), "not allowed to {} 'news'"),
        (Decision(False, "it is closed"), "not allowed to {} 'news': it is closed"),
    ],
)
@pytest.mark.parametrize(
    "request_", [subscribe("news"), subscribe("news", last=1), publish("news")]
)
def test_a_refusal_has_the_policys_reason(
    world: World, answer: Any, reason: str, request_: str
) -> None:
    client = world.connect(policy=Rules(news=answer))
    action = "publish" if "publish" in request_ else "subscribe"
    assert client.send(request_) == [refusal(action, "news", reason.format(f"{action} to"))]


async def test_a_reason_that_comes_later_is_told_as_well(world: World) -> None:
    decided = future()
    client = world.connect(policy=Rules(news=decided))
    pending = client.start(subscribe("news"))
    decided.set_result(Decision(False, "it is closed"))
    await pending
    assert client.transport.take() == [
        refusal("subscribe", "news", "not allowed to subscribe to 'news': it is closed")
    ]


async def test_a_resume_has_a_reason_for_each_topic(logged: World) -> None:
    later = future()
    later.set_result(Decision(False, "later"))
    client = logged.connect(policy=Rules(a=Decision(False, "now"), b=later, c=False, d=True))
    await client.start(resume(["a", "b", "c", "d"], since="log:0"))
    [answer] = client.transport.take()
    topics = answer["topics"]
    assert topics["d"] == {"recovered": True}
    assert {topic: topics[topic]["error"]["reason"] for topic in "abc"} == {
        "a": "not allowed to subscribe to 'a': now",
        "b": "not allowed to subscribe to 'b': later",
        "c": "not allowed to subscribe to 'c'",
    }


def test_a_decision_that_allows_a_publish_is_a_yes(world: World) -> None:
    client = world.connect(policy=Rules(news=NO_STAFF))
    assert client.send(publish("news")) == [ack("publish", "news")]


# Denied sub-topics.


def test_denied_sub_topics_and_all_below_them_are_not_delivered(world: World) -> None:
    reader, staff = world.connect("reader", policy=Rules(news=NO_STAFF)), world.connect("staff")
    for client in (reader, staff):
        assert client.send(subscribe("news")) == [ack("subscribe", "news")]
    topics = ["news", "news.uk", "news.staff", "news.staff.a", "news.staffroom", "news.uk.staff"]
    for topic in topics:
        world.connect("writer").send(publish(topic, timestamp=STAMP))
    assert staff.transport.take() == [delivery(topic, "news") for topic in topics]
    assert reader.transport.take() == [
        delivery(topic, "news")
        for topic in topics
        if not topic.startswith("news.staff") or topic == "news.staffroom"
    ]


def test_a_subscription_to_a_denied_topic_is_another_question(world: World) -> None:
    policy = Rules(**{"news": NO_STAFF, "news.staff.menu": True, "news.staff": False})
    reader = world.connect("reader", policy=policy)
    reader.send(subscribe("news"))
    reader.send(subscribe("news.staff.menu"))
    [answer] = reader.send(subscribe("news.staff"))
    assert is_error(answer, "forbidden", action="subscribe", topic="news.staff")
    world.connect("writer").send(publish("news.staff.menu", timestamp=STAMP))
    assert reader.transport.take() == [delivery("news.staff.menu", "news.staff.menu")]


def test_topics_that_are_not_below_are_not_denied(world: World) -> None:
    policy = Rules(news=denied("news", "sport", "newsroom.staff"))
    reader = world.connect("reader", policy=policy)
    reader.send(subscribe("news"))
    for topic in ("news", "news.uk"):
        world.connect("writer").send(publish(topic, topic))
    assert messages(reader) == ["news", "news.uk"]


def test_subscribing_again_brings_the_newest_decision(world: World) -> None:
    policy = Rules(news=NO_STAFF)
    reader, writer = world.connect("reader", policy=policy), world.connect("writer")
    reader.send(subscribe("news"))
    for answer, expected in ((True, [1]), (denied("news.uk"), [1]), (NO_STAFF, [2])):
        policy.answers["news"] = answer
        reader.send(subscribe("news"))
        writer.send(publish("news.staff", 1))
        if answer is not True:
            writer.send(publish("news.uk", 2))
        assert messages(reader) == expected
    assert world.observer.told.count(("subscribed", "reader", "news")) == 1


def test_a_subscription_that_ends_leaves_nothing_denied(world: World) -> None:
    reader = world.connect("reader", policy=Rules(news=NO_STAFF))
    reader.send(subscribe("news"))
    reader.session.closed()
    assert world.is_empty()
    open_ = world.connect("open")
    open_.send(subscribe("news"))
    world.connect("writer").send(publish("news.staff", 1))
    assert messages(open_) == [1]


# Denied sub-topics in what is replayed.


@pytest.fixture
def published(logged: World) -> World:
    writer = logged.connect("writer")
    for number, topic in enumerate(("news", "news.staff", "news.uk", "news.staff.a", "news"), 1):
        writer.send(publish(topic, number))
    return logged


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (subscribe("news", since="log:0"), [1, 3, 5]),
        (subscribe("news", since="log:1"), [3, 5]),
        (subscribe("news", since="log:3"), [5]),
        (subscribe("news", last=2), [3, 5]),
        (subscribe("news", last=9), [1, 3, 5]),
        (resume(["news"], since="log:0"), [1, 3, 5]),
        (resume(["news.uk", "news"], since="log:1"), [3, 3, 5]),
    ],
)
def test_denied_sub_topics_are_not_replayed(
    published: World, request_: str, expected: list[int]
) -> None:
    policy = Rules(**{"news": NO_STAFF, "news.uk": True})
    *replayed, answer = published.connect("reader", policy=policy).send(request_)
    assert [each["message"] for each in replayed] == expected
    assert answer.get("recovered", True) is True


def test_one_who_is_denied_does_not_spoil_what_others_are_replayed(published: World) -> None:
    every = [1, 2, 3, 4, 5]
    for name, policy, expected in (
        ("one", Rules(news=NO_STAFF), [1, 3, 5]),
        ("two", Rules(news=True), every),
        ("three", Rules(news=denied("news.uk")), [1, 2, 4, 5]),
        ("four", Rules(news=NO_STAFF), [1, 3, 5]),
        ("five", Rules(news=True), every),
    ):
        client = published.connect(name, policy=policy)
        *replayed, _ = client.send(subscribe("news", since="log:0"))
        assert [each["message"] for each in replayed] == expected, name


def test_what_is_all_denied_is_recovered_without_a_message(published: World) -> None:
    published.connect("writer").send(publish("news.staff", 6))
    reader = published.connect(policy=Rules(news=NO_STAFF))
    [answer] = reader.send(subscribe("news", since="log:5"))
    assert answer["recovered"] is True


@pytest.mark.parametrize("request_", [subscribe("news", since="log:0"), subscribe("news", last=5)])
def test_after_a_replay_the_subscription_denies_the_same(published: World, request_: str) -> None:
    reader = published.connect("reader", policy=Rules(news=NO_STAFF))
    reader.send(request_)
    for topic in ("news.staff.b", "news.b"):
        published.connect("writer").send(publish(topic, topic))
    assert messages(reader) == ["news.b"]


def test_a_publisher_does_not_wait_for_a_reader_that_is_denied(world: World) -> None:
    slow = world.connect("slow", policy=Rules(news=NO_STAFF))
    slow.send(subscribe("news"))
    slow.session.on_backpressure(True)
    hub = world.node.hub
    assert hub.behind("news.staff") is None
    assert hub.behind("news.uk") is slow.transport
    assert (hub.reach("news.staff"), hub.reach("news.uk")) == (0, 1)


def test_a_recheck_changes_what_is_denied(world: World) -> None:
    policy = Rules(news=NO_STAFF)
    reader, writer = world.connect("reader", policy=policy), world.connect("writer")
    reader.send(subscribe("news"))
    for answer, expected in ((denied("news.uk"), [1]), (True, [1, 2]), (NO_STAFF, [2])):
        policy.answers["news"] = answer
        assert reader.session.recheck(["news.staff"]) is None
        writer.send(publish("news.staff", 1))
        writer.send(publish("news.uk", 2))
        assert messages(reader) == expected


@pytest.mark.parametrize("allowed", ["yes", "", 1, 0, None])
def test_whatever_is_true_allows(allowed: Any) -> None:
    assert Decision(allowed).allowed is bool(allowed)
