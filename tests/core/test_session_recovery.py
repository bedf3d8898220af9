"""Recovery (docs/reference/protocol.md, "Recovery"): what a client that comes back is sent, and when."""

import asyncio
import logging
from typing import Any

import pytest
from msgspec import Raw

from dwsps_channels.broker.memory import MemoryBroker
from dwsps_channels.core import pacing, recovery, replay
from dwsps_channels.core.broker import Repeated
from dwsps_channels.core.identity import Identity, Role
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.log import Log
from dwsps_channels.core.node import Node
from dwsps_channels.core.pacing import MIN_PROGRESS_BYTES, Backlog, Window
from dwsps_channels.core.policy import Decision
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.recovery import MAX_QUESTIONS, MAX_ROUNDS
from dwsps_channels.core.replay import ReplayLimits
from dwsps_channels.core.retention import Retention
from dwsps_channels.core.tail import Tail
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Forbidden, Unavailable
from dwsps_channels.protocol.frames import Frame
from tests.clock import Clock
from tests.core.recording import (
    STAMP,
    BufferingTransport,
    Client,
    Message,
    RecordingPolicy,
    RecordingTransport,
    World,
    future,
    is_error,
    peer,
    publish,
    resume,
    subscribe,
    turn,
    unsubscribe,
)


def publish_all(world: World, *topics: str) -> None:
    """Publish a message to each topic, the number of which is its offset if they are the first."""
    client = world.connect("publisher")
    for topic in topics:
        assert client.send(publish(topic, topic))[0]["type"] == "ack"


def answers(client: Client, frame: str) -> list[Message]:
    """Send a frame that needs no waiting; return all that came to this client, as it was."""
    assert client.session.receive(frame) is None
    return client.transport.take_whole()


def copies(messages: list[Message]) -> list[tuple[int, str]]:
    """Return the offset and the context of each delivery."""
    return [(each["offset"], each["context"]) for each in messages if each["type"] == "publish"]


def ack(action: str, topic: str, cursor: str, **fields: object) -> Message:
    return {"type": "ack", "action": action, "topic": topic, "cursor": cursor, **fields}


# Cursors and offsets.


def test_acks_have_the_cursor_and_those_of_publishes_the_offset(logged: World) -> None:
    client = logged.connect()

    assert answers(client, subscribe("news", id=1)) == [ack("subscribe", "news", "log:0", id=1)]
    delivered, published = answers(client, publish("news", id=2))
    assert delivered["offset"] == 1
    assert published == {"type": "ack", "action": "publish", "topic": "news", "id": 2, "offset": 1}
    assert answers(client, unsubscribe("news")) == [ack("unsubscribe", "news", "log:1")]


async def test_a_publish_that_waits_for_the_broker_is_acknowledged_with_its_offset(
    logged: World,
) -> None:
    logged.broker.answer = accepted = future()
    client = logged.connect()
    assert answers(client, publish("news")) == []

    accepted.set_result(7)
    await turn()

    assert [each["offset"] for each in client.transport.take_whole()] == [7]
    assert answers(client, subscribe("news")) == [ack("subscribe", "news", "log:7")]


async def test_without_a_log_there_are_neither(world: World) -> None:
    world.broker.answer = accepted = future()
    client = world.connect()
    client.send(subscribe("news"))
    assert answers(client, publish("news")) == []

    accepted.set_result(None)
    await turn()

    delivered, published = client.transport.take_whole()
    assert "offset" not in delivered
    assert "offset" not in published
    assert answers(client, unsubscribe("news")) == [
        {"type": "ack", "action": "unsubscribe", "topic": "news"}
    ]


async def test_a_cursor_is_that_of_the_moment_in_which_it_is_sent(logged: World) -> None:
    """An ack that waits behind a publish is not to take a client back to what it was reset from."""
    logged.broker.answer = accepted = future()
    client = logged.connect()
    assert answers(client, publish("sport")) == []
    assert answers(client, subscribe("news", last=0)) == []

    logged.node.begin(Log("new", 40))
    accepted.set_result(41)
    await turn()

    reset, published, subscribed = client.transport.take_whole()
    assert (reset["type"], reset["cursor"]) == ("reset", "new:40")
    assert published["offset"] == 41
    assert subscribed == ack("subscribe", "news", "new:41")


# Subscribing from a cursor.


def test_a_subscriber_gets_what_came_after_its_cursor_as_it_was_and_then_the_ack(
    logged: World,
) -> None:
    witness = logged.connect("witness")
    witness.send(subscribe("news"))
    publish_all(logged, "news", "sport", "news.uk", "newsroom", "news.uk.london")
    client = logged.connect()

    *replayed, acknowledged = answers(client, subscribe("news", since="log:1", id=1))

    assert replayed == witness.transport.take_whole()[1:]
    assert copies(replayed) == [(3, "news"), (5, "news")]
    assert acknowledged == ack("subscribe", "news", "log:5", recovered=True, id=1)
    publish_all(logged, "news")
    assert copies(client.transport.take_whole()) == [(6, "news")]


def test_a_message_of_a_peer_is_replayed_with_its_mark(logged: World) -> None:
    link = logged.connect(identity=peer("link"))
    link.send(publish("news", timestamp=STAMP, fromPeerServer=True, id=1, origin="far"))

    replayed, _ = answers(logged.connect(), subscribe("news", since="log:0"))

    assert replayed == {
        "type": "publish",
        "timestamp": STAMP,
        "topic": "news",
        "message": "hello",
        "fromPeerServer": True,
        "context": "news",
        "offset": 1,
    }


def test_at_the_end_of_the_log_there_is_nothing_to_replay(logged: World) -> None:
    publish_all(logged, "news")
    assert answers(logged.connect(), subscribe("news", since="log:1")) == [
        ack("subscribe", "news", "log:1", recovered=True)
    ]


@pytest.mark.parametrize(
    "since",
    [
        "old:0",
        "log:-1",
        "log:1.0",
        "log:+1",
        "log: 1",
        "log:1_0",
        "log:" + "9" * 120,
        "log:\u0660",
        "log",
        "log:",
        ":0",
        ":",
        "",
        "0",
        "log:0:0",
        "\ud800",
    ],
)
def test_a_cursor_that_cannot_be_recovered_from_replays_nothing(logged: World, since: str) -> None:
    publish_all(logged, "news")
    client = logged.connect()

    assert answers(client, subscribe("news", since=since)) == [
        ack("subscribe", "news", "log:1", recovered=False)
    ]
    publish_all(logged, "news")
    assert copies(client.transport.take_whole()) == [(2, "news")]


def test_who_is_subscribed_already_may_recover_as_well(logged: World) -> None:
    client = logged.connect()
    client.send(subscribe("news"))
    publish_all(logged, "news")
    assert copies(client.transport.take_whole()) == [(1, "news")]

    assert copies(answers(client, subscribe("news", since="log:0"))) == [(1, "news")]
    publish_all(logged, "news")
    assert copies(client.transport.take_whole()) == [(2, "news")]
    assert logged.observer.told.count(("subscribed", "one", "news")) == 1


@pytest.mark.parametrize("fields", [{"since": "log:0"}, {"last": 5}])
def test_without_a_log_nothing_is_recovered(world: World, fields: dict[str, Any]) -> None:
    world.receive(Publication("news", Raw(b"1"), STAMP))
    (told,) = answers(world.connect(), subscribe("news", **fields))

    assert told == {"type": "ack", "action": "subscribe", "topic": "news"} | (
        {"recovered": False} if "since" in fields else {}
    )
    (told,) = answers(world.connect(), resume(["news"], since="log:0"))
    assert told == {
        "type": "ack",
        "action": "resume",
        "topics": {"news": {"recovered": False}},
    }


# Subscribing to the last ones.


@pytest.mark.parametrize(
    ("last", "expected"), [(0, []), (1, [5]), (2, [3, 5]), (3, [1, 3, 5]), (2**53 - 1, [1, 3, 5])]
)
def test_a_subscriber_gets_the_last_ones_and_then_the_ack(
    logged: World, last: int, expected: list[int]
) -> None:
    publish_all(logged, "news", "sport", "news.uk", "newsroom", "news.uk.london")
    client = logged.connect()

    *replayed, acknowledged = answers(client, subscribe("news", last=last))

    assert copies(replayed) == [(offset, "news") for offset in expected]
    assert acknowledged == ack("subscribe", "news", "log:5")
    publish_all(logged, "news")
    assert copies(client.transport.take_whole()) == [(6, "news")]


# Resuming.


def resumed(cursor: str, topics: dict[str, Any], **fields: object) -> Message:
    return {"type": "ack", "action": "resume", "cursor": cursor, "topics": topics, **fields}


def test_a_resume_merges_the_topics_in_the_order_of_the_log(logged: World) -> None:
    publish_all(logged, "b", "a.x", "c", "b.y", "a", "a.x.z", "b")
    client = logged.connect()

    *replayed, acknowledged = answers(client, resume(["b", "a", "a.x", "d"], since="log:1", id=7))

    assert copies(replayed) == [
        (2, "a.x"),
        (2, "a"),
        (4, "b"),
        (5, "a"),
        (6, "a.x"),
        (6, "a"),
        (7, "b"),
    ]
    yes = {"recovered": True}
    assert acknowledged == resumed("log:7", {"b": yes, "a": yes, "a.x": yes, "d": yes}, id=7)
    publish_all(logged, "a.x")
    assert copies(client.transport.take_whole()) == [(8, "a.x"), (8, "a")]


def test_the_same_topic_twice_counts_once_and_one_that_stands_is_replayed(logged: World) -> None:
    policy = RecordingPolicy()
    client = logged.connect(policy=policy, limits=Limits(subscriptions=2))
    client.send(subscribe("news"))
    publish_all(logged, "news", "sport")
    client.transport.take()

    *replayed, acknowledged = answers(
        client, resume(["sport", "news", "sport", "news"], since="log:0")
    )

    assert copies(replayed) == [(1, "news"), (2, "sport")]
    assert list(acknowledged["topics"]) == ["sport", "news"]
    assert [topic for _, _, topic in policy.asked] == ["news", "sport", "news"]
    assert logged.observer.told[-1] == ("subscribed", "one", "sport")
    assert logged.observer.told.count(("subscribed", "one", "news")) == 1


def test_a_resume_of_nothing_is_acknowledged(logged: World) -> None:
    assert answers(logged.connect(), resume([], since="log:0")) == [resumed("log:0", {})]


def test_what_is_refused_of_a_resume_does_not_touch_the_rest(
    logged: World, caplog: pytest.LogCaptureFixture
) -> None:
    publish_all(logged, "fine", "secret", "broken", "many", "said")

    class Policy(RecordingPolicy):
        def may_subscribe(self, identity: Identity, topic: str) -> Any:
            match topic:
                case "broken":
                    raise KeyError("a password")
                case "said":
                    raise Forbidden("read this")
            return topic != "secret" and super().may_subscribe(identity, topic)

    policy = Policy()
    client = logged.connect(policy=policy, limits=Limits(subscriptions=5))
    topics = ["secret", "", "a..b", "x" * 256, "broken", "fine", "said", "fine.too", "many"]

    with caplog.at_level(logging.ERROR, "dwsps_channels.session"):
        *replayed, acknowledged = answers(client, resume(topics, since="log:0", id=1))

    assert copies(replayed) == [(1, "fine")]
    assert acknowledged["id"] == 1
    outcomes = acknowledged["topics"]
    assert list(outcomes) == topics
    assert outcomes.pop("fine") == outcomes.pop("fine.too") == {"recovered": True}
    errors = {topic: outcome["error"] for topic, outcome in outcomes.items()}
    assert {topic: error.pop("code") for topic, error in errors.items()} == {
        "secret": "forbidden",
        "": "invalid_topic",
        "a..b": "invalid_topic",
        "x" * 256: "invalid_topic",
        "broken": "unavailable",
        "said": "forbidden",
        "many": "too_many_subscriptions",
    }
    assert [error["retryable"] for error in errors.values()] == [False] * 4 + [True, False, False]
    assert errors["secret"]["reason"] == "not allowed to subscribe to 'secret'"
    assert errors["said"]["reason"] == "not allowed to read this"
    assert "password" not in str(acknowledged)
    assert len(caplog.records) == 1
    assert [told for told in logged.observer.told if told[0] == "subscribed"] == [
        ("subscribed", "one", "fine"),
        ("subscribed", "one", "fine.too"),
    ]
    # Nobody was asked about what is refused anyway, and there is room for what was not taken.
    assert [topic for _, _, topic in policy.asked] == ["fine", "fine.too"]
    assert [each["type"] for each in answers(client, subscribe("many"))] == ["ack"]


def test_a_thousand_topics_are_resumed_and_one_more_is_too_many(logged: World) -> None:
    topics = [f"t{number}" for number in range(1001)]
    publish_all(logged, *topics)
    client = logged.connect()

    *replayed, acknowledged = answers(client, resume(topics, since="log:0"))

    assert copies(replayed) == [(number + 1, f"t{number}") for number in range(1000)]
    outcomes = list(acknowledged["topics"].values())
    assert outcomes[:1000] == [{"recovered": True}] * 1000
    assert outcomes[1000]["error"]["code"] == "too_many_subscriptions"


def test_the_bytes_of_resumed_topics_are_limited(logged: World) -> None:
    client = logged.connect(limits=Limits(subscription_bytes=10))
    client.send(subscribe("aaaa"))

    (told,) = answers(client, resume(["☃☃", "aaaa", "b"], since="log:0"))

    assert told["topics"]["☃☃"] == told["topics"]["aaaa"] == {"recovered": True}
    assert told["topics"]["b"]["error"] == {
        "code": "too_many_subscriptions",
        "reason": "a connection may have 10 bytes of topics",
        "retryable": False,
    }


def test_a_resume_is_one_frame_of_the_rate(logged: World) -> None:
    client = logged.connect(limits=Limits(rate=1.0, burst=1), clock=Clock())
    assert answers(client, resume(["a", "b"], since="log:0"))[0]["type"] == "ack"

    (told,) = client.send(resume(["a"], since="log:0", id=1))

    assert is_error(told, "rate_limited", action="resume", id=1)


@pytest.mark.parametrize("role", [Role.PEER, Role.PUBLISHER, Role.WORKER])
def test_other_roles_may_resume_as_well(logged: World, role: Role) -> None:
    publish_all(logged, "news")
    client = logged.connect(identity=Identity("other", role=role, peer="north"))

    replayed, acknowledged = answers(client, resume(["news"], since="log:0"))

    assert copies([replayed]) == [(1, "news")]
    assert acknowledged == resumed("log:1", {"news": {"recovered": True}})


# Waiting for the policy.


async def test_what_is_published_while_the_policy_decides_comes_once_and_in_order(
    logged: World,
) -> None:
    publish_all(logged, "news")
    decision = future()
    client = logged.connect(policy=RecordingPolicy(lambda: decision))
    pending = client.start(resume(["news", "sport"], since="log:0"))
    publish_all(logged, "news", "sport")
    assert client.transport.take_whole() == []

    decision.set_result(True)
    await pending
    publish_all(logged, "sport")

    got = client.transport.take_whole()
    assert copies(got) == [(1, "news"), (2, "news"), (3, "sport"), (4, "sport")]
    yes = {"recovered": True}
    assert got[3] == resumed("log:3", {"news": yes, "sport": yes})


async def test_a_policy_is_asked_about_several_topics_at_once_but_not_about_all(
    logged: World,
) -> None:
    undecided: list[Any] = []
    most = 0

    async def decide() -> bool:
        nonlocal most
        undecided.append(decision := future())
        most = max(most, len(undecided))
        await decision
        return True

    count = 3 * MAX_QUESTIONS + 5
    client = logged.connect(policy=RecordingPolicy(decide))
    topics = [f"t{number}" for number in range(count)]
    pending = asyncio.ensure_future(client.start(resume(topics, since="log:0")))
    decided = 0
    while not pending.done():
        await turn()
        for decision in undecided:
            decision.set_result(True)
        decided += len(undecided)
        undecided.clear()

    assert decided == count
    assert most == MAX_QUESTIONS
    (told,) = client.transport.take_whole()
    assert told["topics"] == {topic: {"recovered": True} for topic in topics}


async def test_a_client_that_has_gone_leaves_no_questions_behind(logged: World) -> None:
    decision = future()
    policy = RecordingPolicy(lambda: decision)
    client = logged.connect(policy=policy)
    topics = [f"t{number}" for number in range(3 * MAX_QUESTIONS)]
    pending = asyncio.ensure_future(client.start(resume(topics, since="log:0")))
    await turn()
    client.session.closed()

    decision.set_result(True)
    await pending

    assert len(policy.asked) == MAX_QUESTIONS


async def test_answers_that_come_late_and_at_once_are_each_their_topic_s(logged: World) -> None:
    async def later(answer: bool) -> bool:
        await asyncio.sleep(0)
        return answer

    async def fail() -> bool:
        raise KeyError("a password")

    given = iter([True, later(False), False, fail(), later(True), None, True])
    client = logged.connect(policy=RecordingPolicy(lambda: next(given)))

    await client.start(resume(["a", "b", "c", "d", "e", "f", "g"], since="log:0"))

    (told,) = client.transport.take_whole()
    outcomes = {
        topic: outcome.get("recovered") or outcome["error"]["code"]
        for topic, outcome in told["topics"].items()
    }
    assert outcomes == {
        "a": True,
        "b": "forbidden",
        "c": "forbidden",
        "d": "unavailable",
        "e": True,
        "f": "unavailable",
        "g": True,
    }


def test_a_policy_that_fails_for_each_topic_is_logged_once(
    logged: World, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> bool:
        raise KeyError("a password")

    client = logged.connect(policy=RecordingPolicy(fail))
    topics = [f"t{number}" for number in range(100)]

    (told,) = answers(client, resume(topics, since="log:0"))

    codes = [told["topics"][topic]["error"]["code"] for topic in topics]
    assert codes == ["unavailable"] * 100
    assert "a password" not in str(told)
    assert len(caplog.records) == 1
    assert "a password" in caplog.text


@pytest.mark.parametrize("gone_by", ["leaving", "being closed"])
async def test_a_permission_that_comes_after_the_client_has_gone_recovers_nothing(
    logged: World, gone_by: str
) -> None:
    publish_all(logged, "news")
    decision = future()
    client = logged.connect(policy=RecordingPolicy(lambda: decision))
    pending = client.start(resume(["news"], since="log:0"))

    if gone_by == "leaving":
        client.session.closed()
    else:
        client.session.close(CloseCode.GOING_AWAY, Unavailable("the server is going away"))
    decision.set_result(True)
    await pending

    assert logged.is_empty()
    assert ("subscribed", "one", "news") not in logged.observer.told


# Waiting for room.

SMALL = Limits(buffered_bytes=1000)

RECOVERIES = {
    "resume": resume(["news"], since="log:0", id=1),
    "since": subscribe("news", since="log:0", id=1),
    "last": subscribe("news", last=10, id=1),
}


@pytest.mark.parametrize("frame", RECOVERIES.values(), ids=RECOVERIES)
async def test_a_replay_waits_for_room_and_has_what_came_meanwhile(
    logged: World, frame: str
) -> None:
    publish_all(logged, "news")
    client = logged.connect(limits=SMALL)
    client.transport.buffered_bytes = 1000

    pending = asyncio.ensure_future(client.start(frame))
    await turn()
    publish_all(logged, "news")
    assert client.transport.take_whole() == []
    assert logged.node.hub.reach("news") == 0

    client.transport.buffered_bytes = 100
    await pending
    *replayed, acknowledged = client.transport.take_whole()
    assert copies(replayed) == [(1, "news"), (2, "news")]
    assert (acknowledged["cursor"], acknowledged["id"]) == ("log:2", 1)
    assert logged.node.hub.reach("news") == 1


async def test_a_client_that_does_not_read_recovers_nothing_and_is_not_closed(
    logged: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "MAX_PAUSES", 3)
    publish_all(logged, "news")
    client = logged.connect(limits=SMALL)
    client.transport.buffered_bytes = 1000

    await client.start(resume(["news"], since="log:0"))
    await client.start(subscribe("news", since="log:0"))
    await client.start(subscribe("news", last=1, id=1))

    first, second, third = client.transport.take_whole()
    assert first == resumed("log:1", {"news": {"recovered": False}})
    assert second == ack("subscribe", "news", "log:1", recovered=False)
    assert is_error(third, "unavailable", action="subscribe", topic="news", id=1)
    assert client.transport.code is None
    assert logged.node.hub.reach("news") == 1


async def test_a_client_that_leaves_while_it_waits_for_room_leaves_nothing(logged: World) -> None:
    publish_all(logged, "news")
    client = logged.connect(limits=SMALL)
    client.transport.buffered_bytes = 1000
    pending = asyncio.ensure_future(client.start(resume(["news"], since="log:0")))
    await turn()

    client.session.closed()
    client.transport.buffered_bytes = 0
    await pending

    assert logged.is_empty()


@pytest.mark.parametrize(
    ("each", "is_worth_it"), [(MIN_PROGRESS_BYTES, True), (MIN_PROGRESS_BYTES // 16, False)]
)
async def test_a_slow_client_is_waited_for_as_long_as_it_reads(
    each: int, is_worth_it: bool
) -> None:
    pauses: list[float] = []
    transport = RecordingTransport(buffered_bytes=20 * MIN_PROGRESS_BYTES)

    async def read(seconds: float) -> None:
        pauses.append(seconds)
        if sum(pauses) > 5 * len(reads):
            reads.append(None)
            transport.buffered_bytes -= each

    reads: list[None] = []
    window = Window(transport, 4 * MIN_PROGRESS_BYTES, read)

    while not window.has_room(MIN_PROGRESS_BYTES) and await window.wait():
        pass

    assert window.has_room(MIN_PROGRESS_BYTES) == is_worth_it
    assert sum(pauses) < 20 * 6


async def test_a_frame_that_is_larger_than_the_room_ever_is_goes_alone() -> None:
    transport = BufferingTransport()
    window = Window(transport, 1000, asyncio.sleep)
    frames = [Frame(b"x" * size) for size in (1, 600, 1)]
    backlog = Backlog(iter(frames))

    for sent in frames:
        is_all = window.send(backlog)
        assert transport.frames == [sent]
        assert not window.has_room(500)
        transport.frames.clear()
        await window.wait()
    assert is_all


# A replay that is larger than the buffer.


class Reader:
    """A client that reads ``count`` frames in each pause; ``got`` has what it read, and ``most`` what ever waited."""

    def __init__(self, world: World, count: int, **options: Any) -> None:
        self.transport = BufferingTransport()
        self.count = count
        self.got: list[Message] = []
        self.most = 0
        self.pauses = 0
        options = {"limits": SMALL, **options}
        self.client = world.connect(transport=self.transport, pause=self.pause, **options)

    async def pause(self, _: float) -> None:
        self.pauses += 1
        self.read(self.count)
        self.meanwhile()

    def meanwhile(self) -> None:
        """Do what else happens in a pause."""

    def read(self, count: int) -> None:
        waiting, self.most = self.transport.frames, max(self.most, self.transport.buffered_bytes)
        rest = waiting[count:]
        del waiting[count:]
        self.got += self.transport.take_whole()
        waiting += rest

    async def send(self, frame: str) -> list[Message]:
        """Send a frame; return all that came, without the acknowledgement."""
        pending = self.client.session.receive(frame)
        if pending is not None:
            await pending
        self.read(1000)
        return [each for each in self.got if each["type"] == "publish"]


@pytest.fixture
def paced(logged: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world in which no more than five deliveries are encoded at once, and 40 are kept."""
    for module in (replay, pacing):
        monkeypatch.setattr(module, "MAX_AT_ONCE", 5)
    logged.node = Node("here", logged.broker, tail=Tail(Retention(messages=40)))
    logged.broker.receiver = logged.node
    logged.node.begin(Log("log"))
    return logged


LARGE = [("resume", 5), ("resume", 30), ("since", 5), ("since", 30), ("last", 5), ("last", 30)]


@pytest.mark.parametrize(("kind", "count"), LARGE)
async def test_a_replay_larger_than_the_buffer_comes_whole_as_the_client_reads(
    paced: World, kind: str, count: int
) -> None:
    publish_all(paced, *["news"] * count)
    reader = Reader(paced, 1)
    frame = RECOVERIES[kind].replace("10", "100")

    replayed = await reader.send(frame)

    assert copies(replayed) == [(number + 1, "news") for number in range(count)]
    assert reader.got[-1]["cursor"] == f"log:{count}"
    assert reader.most <= SMALL.buffered_bytes
    assert reader.pauses >= count // 5
    publish_all(paced, "news")
    assert copies(reader.transport.take_whole()) == [(count + 1, "news")]


@pytest.mark.parametrize("kind", RECOVERIES)
async def test_what_is_published_while_a_replay_is_sent_comes_after_it(
    paced: World, kind: str
) -> None:
    publish_all(paced, *["news.uk"] * 20)
    reader = Reader(paced, 3)

    def meanwhile() -> None:
        if reader.pauses < 10:
            publish_all(paced, "news", "sport")

    reader.meanwhile = meanwhile  # type: ignore[method-assign]
    replayed = await reader.send(RECOVERIES[kind].replace("10", "100"))

    offsets = [offset for offset, _ in copies(replayed)]
    assert offsets[:20] == list(range(1, 21))
    assert offsets[20:] == list(range(21, 21 + 2 * len(offsets[20:]), 2))
    assert len(offsets) > 23
    assert reader.got[-1]["type"] == "ack"
    assert reader.got[-1]["cursor"] == paced.node.cursor


@pytest.mark.parametrize("kind", RECOVERIES)
async def test_what_is_published_before_a_large_replay_begins_is_not_missed(
    paced: World, kind: str
) -> None:
    """The fast lane awaits it in the next turn of the event loop."""
    publish_all(paced, *["news"] * 20)
    reader = Reader(paced, 3)
    pending = reader.client.session.receive(RECOVERIES[kind].replace("10", "100"))
    assert pending is not None
    publish_all(paced, "news")

    await pending

    reader.read(1000)
    replayed = [each for each in reader.got if each["type"] == "publish"]
    assert copies(replayed) == [(number, "news") for number in range(1, 22)]
    assert reader.got[-1]["cursor"] == "log:21"


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", RECOVERIES)
@pytest.mark.parametrize("after", [False, Decision(True, denied=("news.uk",))], ids=repr)
async def test_a_right_that_is_taken_away_ends_a_large_replay(
    paced: World, kind: str, after: Any, is_async: bool
) -> None:
    publish_all(paced, *["news"] * 20)
    rights: list[Any] = [True]

    async def later() -> Any:
        return rights[-1]

    policy = RecordingPolicy(later if is_async else lambda: rights[-1])
    reader = Reader(paced, 2, policy=policy)

    def meanwhile() -> None:
        if reader.pauses == 2:
            rights.append(after)
            assert reader.client.session.recheck(None) is None

    reader.meanwhile = meanwhile  # type: ignore[method-assign]
    replayed = await reader.send(RECOVERIES[kind].replace("10", "100"))

    # As much as it had read by then: what was queued is discarded.
    assert len(replayed) == 4
    assert reader.transport.code == CloseCode.GOING_AWAY
    assert reader.transport.discarded
    assert "cursor" not in reader.transport.final_frame
    assert paced.node.hub.reach("news") == 0


@pytest.mark.parametrize("kind", RECOVERIES)
async def test_a_large_replay_goes_on_if_the_right_stands(paced: World, kind: str) -> None:
    publish_all(paced, *["news"] * 20)
    policy = RecordingPolicy()
    reader = Reader(paced, 2, policy=policy)

    def meanwhile() -> None:
        reader.client.session.recheck(None)

    reader.meanwhile = meanwhile  # type: ignore[method-assign]
    replayed = await reader.send(RECOVERIES[kind].replace("10", "100"))

    assert copies(replayed) == [(number + 1, "news") for number in range(20)]
    assert len(policy.asked) > 5
    assert paced.node.hub.reach("news") == 1


async def test_topics_that_are_not_recovered_do_not_touch_a_large_replay(paced: World) -> None:
    publish_all(paced, "lost", *["filler"] * 39, *["a.b"] * 12, "c")
    reader = Reader(paced, 2)

    replayed = await reader.send(resume(["a", "lost", "c", "a.b", "none"], since="log:0"))

    both = [(offset, context) for offset in range(41, 53) for context in ("a.b", "a")]
    assert copies(replayed) == [*both, (53, "c")]
    recovered = {topic: each["recovered"] for topic, each in reader.got[-1]["topics"].items()}
    assert recovered == {"a": True, "lost": False, "c": True, "a.b": True, "none": True}


def is_closed_as_slow(world: World, reader: Reader) -> bool:
    """Return whether the client was closed with 4100, and got no ack."""
    transport = reader.transport
    assert all(each["type"] != "ack" for each in reader.got)
    assert world.node.hub.reach("news") == 0
    return (
        transport.code == CloseCode.SLOW_CONSUMER
        and transport.discarded
        and "too slow" in transport.final_frame["reason"]
    )


@pytest.mark.parametrize("kind", RECOVERIES)
async def test_a_client_that_stops_reading_a_replay_is_closed(paced: World, kind: str) -> None:
    publish_all(paced, *["news"] * 20)
    reader = Reader(paced, 0)

    await reader.send(RECOVERIES[kind].replace("10", "100"))

    assert is_closed_as_slow(paced, reader)


async def test_a_replay_is_sent_though_the_log_drops_it_and_never_in_part(paced: World) -> None:
    """The first taking is held. The log must still have all that came since then."""
    publish_all(paced, *["news"] * 30)
    reader = Reader(paced, 1)
    reader.meanwhile = lambda: publish_all(paced, *["sport"] * 5)  # type: ignore[method-assign]
    replayed = await reader.send(resume(["news"], since="log:0"))
    assert [offset for offset, _ in copies(replayed)] == list(range(1, 31))
    assert reader.got[-1]["topics"] == {"news": {"recovered": True}}
    assert paced.node.replay(["news"], "log:0").recovered == set()
    reader.client.session.closed()

    before = paced.node.cursor
    publish_all(paced, *["fun"] * 30)
    reader = Reader(paced, 1)
    reader.meanwhile = lambda: publish_all(paced, *["fun"] * 5)  # type: ignore[method-assign]
    await reader.send(resume(["fun"], since=before))
    assert is_closed_as_slow(paced, reader)


async def test_a_client_that_reads_less_than_is_published_is_not_waited_for_without_end(
    paced: World,
) -> None:
    paced.node = Node("here", paced.broker)
    paced.broker.receiver = paced.node
    paced.node.begin(Log("log"))
    publish_all(paced, *["news"] * 20)
    reader = Reader(paced, 3)
    reader.meanwhile = lambda: publish_all(paced, *["news"] * 4)  # type: ignore[method-assign]

    await reader.send(resume(["news"], since="log:0"))

    assert is_closed_as_slow(paced, reader)
    assert reader.pauses > MAX_ROUNDS


@pytest.mark.parametrize("is_begun", [True, False])
async def test_a_reset_ends_a_replay_that_waits(paced: World, is_begun: bool) -> None:
    publish_all(paced, *["news"] * 20)
    reader = Reader(paced, 1)
    if not is_begun:
        reader.transport.send(Frame(b'{"type":"entry","padding":"%s"}' % (b"x" * 1000)))
        reader.count = 0
    reader.meanwhile = lambda: paced.node.begin(Log("new", 7))  # type: ignore[method-assign]

    replayed = await reader.send(resume(["news"], since="log:0"))

    if is_begun:
        assert is_closed_as_slow(paced, reader)
    else:
        assert replayed == []
        assert reader.got[-1] == resumed("new:7", {"news": {"recovered": False}})


async def test_a_client_that_leaves_in_the_middle_of_a_replay_leaves_nothing(paced: World) -> None:
    publish_all(paced, *["news"] * 20)
    reader = Reader(paced, 1)
    reader.meanwhile = reader.client.session.closed  # type: ignore[method-assign]

    await reader.send(resume(["news"], since="log:0"))

    assert reader.pauses == 1
    assert paced.is_empty()


async def test_the_first_taking_is_within_the_limits_and_what_comes_meanwhile_is_not_counted(
    paced: World,
) -> None:
    paced.node = Node("here", paced.broker, replay_limits=ReplayLimits(messages=12, bytes=10_000))
    paced.broker.receiver = paced.node
    paced.node.begin(Log("log"))
    publish_all(paced, *["many"] * 13, *["few"] * 12)
    reader = Reader(paced, 2)

    def meanwhile() -> None:
        if reader.pauses == 1:
            publish_all(paced, "few", "many")

    reader.meanwhile = meanwhile  # type: ignore[method-assign]
    replayed = await reader.send(resume(["many", "few"], since="log:0"))

    assert copies(replayed) == [(number, "few") for number in range(14, 27)]
    outcomes = reader.got[-1]["topics"]
    assert (outcomes["many"]["recovered"], outcomes["few"]["recovered"]) == (False, True)


# A process that is behind the one at which the client was before.


@pytest.mark.parametrize("is_resume", [True, False])
async def test_a_process_that_is_behind_first_reads_what_the_client_has_had(
    logged: World, is_resume: bool
) -> None:
    publish_all(logged, "news")
    client = logged.connect()
    frame = resume(["news"], since="log:3") if is_resume else subscribe("news", since="log:3")

    pending = asyncio.ensure_future(client.start(frame))
    await turn()
    publish_all(logged, "news", "news")
    assert client.transport.take_whole() == []
    publish_all(logged, "news")
    await pending

    delivered, acknowledged = client.transport.take_whole()
    assert copies([delivered]) == [(4, "news")]
    told = acknowledged["topics"]["news"] if is_resume else acknowledged
    assert (told["recovered"], acknowledged["cursor"]) == (True, "log:4")


async def test_a_cursor_that_is_never_reached_is_not_waited_for_without_end(
    logged: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "MAX_PAUSES", 3)
    publish_all(logged, "news")
    client = logged.connect()

    await client.start(subscribe("news", since="log:2"))

    assert client.transport.take_whole() == [ack("subscribe", "news", "log:1", recovered=False)]
    publish_all(logged, "news")
    assert copies(client.transport.take_whole()) == [(2, "news")]


async def test_a_reset_ends_the_wait_for_the_log(logged: World) -> None:
    client = logged.connect()
    pending = asyncio.ensure_future(client.start(resume(["news"], since="log:3")))
    await turn()

    logged.node.begin(Log("new", 7))
    await pending

    assert client.transport.take_whole() == [
        {"type": "reset", "cursor": "new:7"},
        resumed("new:7", {"news": {"recovered": False}}),
    ]


async def test_a_client_that_leaves_while_it_waits_for_the_log_leaves_nothing(
    logged: World,
) -> None:
    client = logged.connect()
    pending = asyncio.ensure_future(client.start(resume(["news"], since="log:1")))
    await turn()

    client.session.closed()
    publish_all(logged, "news")
    await pending

    assert logged.is_empty()


# Reset.

ASKED = {
    "since": subscribe("news", since="log:0"),
    "last": subscribe("news", last=0),
    "resume": resume(["news"], since="log:0"),
    "key": publish("news", key="k"),
}


@pytest.mark.parametrize("frame", ASKED.values(), ids=ASKED)
def test_a_client_that_knows_reset_is_told_that_continuity_was_lost(
    logged: World, frame: str
) -> None:
    client = logged.connect()
    client.send(frame)

    logged.node.begin(Log("new", 3))

    assert client.transport.take_whole() == [{"type": "reset", "cursor": "new:3"}]
    publish_all(logged, "news")
    assert len(client.transport.take_whole()) == (frame != ASKED["key"])


def test_any_other_client_never_sees_it(logged: World) -> None:
    client = logged.connect()
    client.send(subscribe("news"))
    client.send(publish("news"))
    client.send('{"type":"subscribe","topic":"news","since":5}')
    client.send(unsubscribe("sport"))

    logged.node.begin(Log("new"))

    assert client.transport.take_whole() == []


def test_a_log_that_begins_late_is_a_reset(world: World) -> None:
    """Others may have published since the client subscribed, and this process did not have it."""
    client = world.connect()
    client.send(subscribe("news", last=0))

    world.node.begin(Log("log", 5))

    assert client.transport.take_whole() == [{"type": "reset", "cursor": "log:5"}]


RECOVERING = {
    "since": subscribe("news", since="log:0"),
    "last": subscribe("news", last=1),
    "resume": resume(["news"], since="log:0"),
}


@pytest.mark.parametrize("frame", RECOVERING.values(), ids=RECOVERING)
async def test_nothing_comes_between_a_replay_and_its_ack_though_publishes_wait(
    logged: World, frame: str
) -> None:
    """A reset in between would be followed by an ack that says that nothing is missing."""
    publish_all(logged, "news")
    client = logged.connect()
    logged.broker.answer = accepted = future()
    assert answers(client, publish("sport", id=1)) == []
    assert answers(client, publish("sport", id=2)) == []

    recovering = asyncio.ensure_future(client.start(frame))
    await turn()
    assert client.transport.take() == []
    accepted.set_result(2)
    await recovering

    told = client.transport.take_whole()
    assert [each["type"] for each in told] == ["ack", "ack", "publish", "ack"]
    assert (copies(told), told[-1]["cursor"]) == ([(1, "news")], "log:2")


@pytest.mark.parametrize("epoch", ["log", "new"])
async def test_a_log_that_begins_again_while_publishes_wait_is_a_reset_and_recovers_nothing(
    logged: World, epoch: str
) -> None:
    publish_all(logged, "news")
    client = logged.connect()
    logged.broker.answer = accepted = future()
    assert answers(client, publish("sport")) == []
    recovering = asyncio.ensure_future(client.start(resume(["news"], since="log:0")))
    await turn()

    logged.node.begin(Log(epoch, 40, 40))
    accepted.set_exception(Unavailable("it is not known if the message was published"))
    await recovering

    reset, refused, resumed = client.transport.take_whole()
    assert (reset["type"], refused["type"]) == ("reset", "error")
    assert (resumed["cursor"], resumed["topics"]) == (f"{epoch}:40", {"news": {"recovered": False}})


async def test_a_client_that_leaves_while_its_publishes_wait_recovers_nothing(
    logged: World,
) -> None:
    publish_all(logged, "news")
    client = logged.connect()
    logged.broker.answer = accepted = future()
    assert answers(client, publish("sport")) == []
    recovering = asyncio.ensure_future(client.start(resume(["news"], since="log:0")))
    await turn()

    client.session.closed()
    accepted.set_result(2)
    await recovering

    assert copies(client.transport.take_whole()) == []
    assert logged.is_empty()


def test_after_a_reset_the_old_cursor_is_worth_nothing_and_the_new_one_is(logged: World) -> None:
    client = logged.connect()
    publish_all(logged, "news")
    logged.node.begin(Log("new"))
    publish_all(logged, "news")

    (told,) = answers(client, subscribe("news", since="log:1"))
    assert told["recovered"] is False
    cursor = told["cursor"]
    publish_all(logged, "news")
    client.transport.take()

    (_, told) = answers(client, subscribe("news", since=cursor))
    assert told["recovered"] is True


# Closing.


def test_a_server_that_goes_away_says_how_far_the_client_is(logged: World) -> None:
    publish_all(logged, "news")
    client = logged.connect()

    client.session.close(CloseCode.GOING_AWAY, Unavailable("the server is going away"))

    assert client.transport.final_frame["cursor"] == "log:1"
    assert is_error(client.transport.final_frame, "unavailable", cursor="log:1")


def test_other_closes_do_not(logged: World) -> None:
    for close in ("on_slow_consumer", "on_ping_timeout"):
        client = logged.connect()
        getattr(client.session, close)()
        assert is_error(client.transport.final_frame, "unavailable")
    client = logged.connect()
    client.session.close(CloseCode.FORBIDDEN, Forbidden("stay"))
    assert is_error(client.transport.final_frame, "forbidden")


def test_after_closing_a_resume_is_ignored(logged: World) -> None:
    client = logged.connect()
    client.session.close(CloseCode.GOING_AWAY, Unavailable("the server is going away"))

    assert answers(client, resume(["news"], since="log:0")) == []
    assert logged.is_empty()


# Keys.


class User:
    is_authenticated = True

    def __init__(self, pk: object) -> None:
        self.pk = pk


async def test_a_publish_that_is_sent_again_with_its_key_is_one_publish_and_one_event() -> None:
    world, broker = World(), MemoryBroker()
    world.node = Node("here", broker)
    await broker.start(world.node)
    reader, client, again = (world.connect(name) for name in ("reader", "one", "two"))
    reader.send(subscribe("news"))

    told = [
        answers(who, publish("news", key=key, id=1))
        for who, key in ((client, "k"), (again, "k"), (client, "other"), (client, "k"))
    ]

    published = {"type": "ack", "action": "publish", "topic": "news", "id": 1}
    assert told == [[published | {"offset": offset}] for offset in (1, 1, 2, 1)]
    assert copies(reader.transport.take_whole()) == [(1, "news"), (2, "news")]
    assert [event[0] for event in world.observer.told].count("published") == 2


@pytest.mark.parametrize(
    ("outcome", "events"), [(7, 1), (Repeated(7), 0), (Unavailable("redis is away"), 0)]
)
async def test_a_publish_with_a_key_is_an_event_once_the_broker_says_that_it_is_new(
    logged: World, outcome: Any, events: int
) -> None:
    logged.broker.answer = accepted = future()
    client = logged.connect()
    assert answers(client, publish("news", {"a": 1}, key="k")) == []
    assert logged.observer.told == [("connected", "one")]

    if isinstance(outcome, int):
        accepted.set_result(outcome)
    else:
        accepted.set_exception(outcome)
    await turn()

    expected = [("published", "one", "news", '{"a": 1}')] * events
    assert logged.observer.told == [("connected", "one"), *expected]
    (told,) = client.transport.take_whole()
    assert told.get("offset") == (7 if isinstance(outcome, int) else None)


def test_keys_of_two_users_are_never_the_same(world: World) -> None:
    identities = [
        Identity("anonymous"),
        Identity("one", user=User(1)),
        Identity("another", user=User(11)),
        Identity("odd", user=User("1:1")),
        peer("link"),
        peer("other", name="south"),
        Identity("server", role=Role.PUBLISHER),
    ]
    for identity in identities:
        client = world.connect(identity=identity)
        for key in ("k", "1:k", "1:1:k"):
            client.send(publish("news", key=key))

    assert len(set(world.broker.keys)) == len(world.broker.keys) == 3 * len(identities)


def test_keys_of_one_user_are_the_same_on_each_connection(world: World) -> None:
    for identity in (
        Identity("one", user=User(1)),
        Identity("two", user=User(1)),
        Identity("three"),
        Identity("four"),
        Identity("worker", role=Role.WORKER),
        Identity("code", role=Role.PUBLISHER),
    ):
        world.connect(identity=identity).send(publish("news", key="k"))

    keys = world.broker.keys
    assert keys[::2] == keys[1::2]
    assert len(set(keys)) == 3


def test_a_user_that_cannot_be_told_is_nobody(world: World) -> None:
    class Broken:
        is_authenticated = True

        @property
        def pk(self) -> object:
            raise RuntimeError("not here")

    for identity in (Identity("one", user=Broken()), Identity("two")):
        (told,) = world.connect(identity=identity).send(publish("news", key="k"))
        assert told["type"] == "ack"

    assert len(set(world.broker.keys)) == 1


def test_a_publish_without_a_key_has_none(world: World) -> None:
    world.connect(identity=Identity("one", user=User(1))).send(publish("news"))
    assert world.broker.keys == [""]
