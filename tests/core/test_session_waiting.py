"""Decisions of policies, and sessions that wait for a policy or the broker."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dwsps_channels.core.identity import Identity, Role
from dwsps_channels.core.reply_queue import MAX_WAITING
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Forbidden, RateLimited, Unavailable
from tests.core.recording import (
    STAMP,
    RecordingPolicy,
    World,
    ack,
    delivery,
    future,
    is_error,
    publish,
    subscribe,
    turn,
    unsubscribe,
)


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """For what would never give the event loop the turn in which a deadline is looked at."""

    def ring(*_: object) -> None:
        raise AssertionError(f"nothing else could run for {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def raise_(error: Exception) -> Any:
    raise error


async def answer_later(answer: Any) -> Any:
    await asyncio.sleep(0)
    return answer() if callable(answer) else answer


# Both ways to answer: at once, and from a coroutine.
both_ways = pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda answer: lambda: answer() if callable(answer) else answer, id="sync"),
        pytest.param(lambda answer: lambda: answer_later(answer), id="async"),
    ],
)
Given = Callable[[Any], Callable[[], Any]]


async def settle(pending: Awaitable[None] | None) -> None:
    if pending is not None:
        await pending


# Policies.


@both_ways
async def test_what_the_policy_allows_is_done(world: World, given: Given) -> None:
    client = world.connect(policy=RecordingPolicy(given(True)))

    await settle(client.session.receive(subscribe("news", id=1)))
    await settle(client.session.receive(publish("news", timestamp=STAMP, id=2)))

    assert client.transport.take() == [
        ack("subscribe", "news", id=1),
        delivery("news", "news"),
        ack("publish", "news", id=2),
    ]


@both_ways
async def test_what_the_policy_denies_is_not_done(world: World, given: Given) -> None:
    other = world.connect("other")
    other.send(subscribe("news"))
    told = list(world.observer.told)
    client = world.connect(policy=RecordingPolicy(given(False)))

    await settle(client.session.receive(subscribe("news", id=1)))
    await settle(client.session.receive(publish("news", id=2)))

    subscribing, publishing = client.transport.take()
    assert is_error(subscribing, "forbidden", action="subscribe", topic="news", id=1)
    assert is_error(publishing, "forbidden", action="publish", topic="news", id=2)
    assert world.broker.taken == []
    assert other.transport.take() == []
    assert world.observer.told == [*told, ("connected", "one")]
    other.session.closed()
    assert world.is_empty()


@both_ways
@pytest.mark.parametrize("frame", [subscribe("news", id=1), publish("news", id=1)])
async def test_a_policy_that_raises_lets_nothing_through_and_is_told_in_the_log_alone(
    world: World, given: Given, frame: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = world.connect(policy=RecordingPolicy(given(lambda: raise_(KeyError("secret")))))

    with caplog.at_level(logging.ERROR, "dwsps_channels.session"):
        await settle(client.session.receive(frame))

    (told,) = client.transport.take()
    assert is_error(told, "unavailable", action=told["action"], topic="news", id=1)
    assert "secret" not in str(told)
    (record,) = caplog.records
    assert "client one" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)
    assert world.broker.taken == []
    assert world.is_empty()


@both_ways
async def test_a_policy_may_raise_an_error_of_the_wire_to_say_why(
    world: World, given: Given, caplog: pytest.LogCaptureFixture
) -> None:
    client = world.connect(
        policy=RecordingPolicy(given(lambda: raise_(Forbidden("read before you have paid"))))
    )

    await settle(client.session.receive(subscribe("news")))

    (told,) = client.transport.take()
    assert is_error(told, "forbidden", action="subscribe", topic="news")
    assert told["reason"] == "not allowed to read before you have paid"
    assert caplog.records == []


@pytest.mark.parametrize("answer", [None, "", 0, "yes", 1])
async def test_an_answer_that_is_no_answer_lets_nothing_through(
    world: World, answer: object
) -> None:
    client = world.connect(policy=RecordingPolicy(lambda: answer))

    await settle(client.session.receive(subscribe("news")))
    await settle(client.session.receive(publish("news")))

    assert [told["type"] for told in client.transport.take()] == ["error", "error"]
    assert world.broker.taken == []
    assert world.is_empty()


def test_the_policy_is_asked_who_and_what(world: World) -> None:
    policy, identity = RecordingPolicy(), Identity("one", user=object())
    client = world.connect(identity=identity, policy=policy)

    client.send(subscribe("news"))
    client.send(publish("news.uk"))
    client.send(unsubscribe("news"))

    assert policy.asked == [("subscribe", identity, "news"), ("publish", identity, "news.uk")]


@pytest.mark.parametrize(
    "frame", [subscribe("a..b"), publish(""), publish("news", fromPeerServer=True), "{"]
)
def test_the_policy_is_not_asked_about_what_is_refused_anyway(world: World, frame: str) -> None:
    policy = RecordingPolicy()

    world.connect(policy=policy).send(frame)

    assert policy.asked == []


async def test_while_the_policy_decides_nothing_happens(world: World) -> None:
    decision = future()
    client = world.connect(policy=RecordingPolicy(lambda: decision))

    pending = client.start(subscribe("news", id=1))
    assert client.transport.take() == []
    assert world.node.hub.reach("news") == 0

    decision.set_result(True)
    await pending
    assert client.transport.take() == [ack("subscribe", "news", id=1)]
    assert world.node.hub.reach("news") == 1


async def test_while_one_waits_the_others_go_on(world: World) -> None:
    decision = future()
    waiting = world.connect("waiting", policy=RecordingPolicy(lambda: decision))
    pending = waiting.start(publish("news", timestamp=STAMP))

    other = world.connect("other")
    assert other.send(subscribe("news")) == [ack("subscribe", "news")]

    decision.set_result(True)
    await pending
    assert other.transport.take() == [delivery("news", "news")]


@pytest.mark.parametrize("gone_by", ["leaving", "being closed"])
async def test_a_permission_that_comes_after_the_client_has_gone_subscribes_nothing(
    world: World, gone_by: str
) -> None:
    decision = future()
    client = world.connect(policy=RecordingPolicy(lambda: decision))
    pending = client.start(subscribe("news"))

    if gone_by == "leaving":
        client.session.closed()
    else:
        client.session.close(CloseCode.GOING_AWAY, Unavailable("the server is going away"))
    decision.set_result(True)
    await pending

    assert world.is_empty()
    assert ("subscribed", "one", "news") not in world.observer.told


async def test_what_a_client_published_before_it_left_is_still_delivered(world: World) -> None:
    decision = future()
    reader = world.connect("reader")
    reader.send(subscribe("news"))
    client = world.connect(policy=RecordingPolicy(lambda: decision))
    pending = client.start(publish("news", timestamp=STAMP))

    client.session.closed()
    decision.set_result(True)
    await pending

    assert reader.transport.take() == [delivery("news", "news")]


async def test_a_door_that_is_cancelled_while_the_policy_decides_leaves_nothing(
    world: World,
) -> None:
    decision = future()
    client = world.connect(policy=RecordingPolicy(lambda: decision))
    handling = asyncio.ensure_future(client.start(subscribe("news")))
    await asyncio.sleep(0)

    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling
    client.session.closed()

    assert client.transport.take() == []
    assert world.is_empty()


# The broker.


async def test_the_delivery_comes_with_the_brokers_answer_and_the_ack_after_it(
    world: World,
) -> None:
    world.broker.answer = accepted = future()
    client = world.connect()
    client.send(subscribe("news"))

    assert client.send(publish("news", timestamp=STAMP, id=1)) == []

    accepted.set_result(None)
    await turn()
    assert client.transport.take() == [delivery("news", "news"), ack("publish", "news", id=1)]


async def test_what_the_broker_refuses_is_delivered_to_nobody(world: World) -> None:
    world.broker.answer = accepted = future()
    client, other = world.connect(), world.connect("two")
    other.send(subscribe("news"))

    client.send(publish("news", id=1))
    accepted.set_exception(Unavailable("the broker is down"))
    await turn()

    assert other.transport.take() == []


@pytest.mark.parametrize("policy_waits", [False, True])
async def test_what_the_broker_refuses_is_an_error_that_may_be_tried_again(
    world: World, policy_waits: bool
) -> None:
    world.broker.answer = accepted = future()
    client = world.connect(
        policy=RecordingPolicy(lambda: answer_later(True) if policy_waits else True)
    )

    await settle(client.session.receive(publish("news", id=1)))
    accepted.set_exception(Unavailable("the broker is down"))
    await turn()

    (told,) = client.transport.take()
    assert is_error(told, "unavailable", action="publish", topic="news", id=1)
    assert told["reason"] == "the broker is down"


async def test_a_broker_that_breaks_is_told_in_the_log_alone(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.broker.answer = accepted = future()
    client = world.connect()

    client.send(publish("news", id=1))
    accepted.set_exception(ConnectionError("redis://user:secret@host"))
    await turn()

    (told,) = client.transport.take()
    assert is_error(told, "unavailable", action="publish", topic="news", id=1)
    assert "secret" not in str(told)
    assert [record.name for record in caplog.records] == ["dwsps_channels.session"]


async def test_policy_and_broker_are_waited_for_one_after_the_other(world: World) -> None:
    async def decide() -> bool:
        await asyncio.sleep(0)
        assert world.broker.taken == []
        return True

    world.broker.answer = accepted = future()
    client = world.connect(policy=RecordingPolicy(decide))

    await client.start(publish("news", id=1))
    assert len(world.broker.taken) == 1
    assert client.transport.take() == []

    accepted.set_result(None)
    await turn()
    assert client.transport.take() == [ack("publish", "news", id=1)]


async def test_many_publishes_may_wait_for_the_broker_at_once(world: World) -> None:
    futures = [future() for _ in range(3)]
    client = world.connect()

    for id, accepted in enumerate(futures):
        world.broker.answer = accepted
        assert client.send(publish("news", id=id)) == []
    assert len(world.broker.taken) == 3

    futures[0].set_result(None)
    await turn()
    assert client.transport.take() == [ack("publish", "news", id=0)]
    futures[2].set_result(None)
    await turn()
    assert client.transport.take() == []
    futures[1].set_result(None)
    await turn()
    assert client.transport.take() == [ack("publish", "news", id=1), ack("publish", "news", id=2)]


async def test_what_comes_after_a_publish_is_answered_after_it(world: World) -> None:
    world.broker.answer = accepted = future()
    client = world.connect()

    client.send(publish("news", id=1))
    assert client.send(subscribe("news", id=2)) == []
    assert client.send(subscribe("", id=3)) == []
    assert client.send("{") == []
    assert world.node.hub.reach("news") == 1

    accepted.set_exception(Unavailable("the broker is down"))
    await turn()
    first, second, third, fourth = client.transport.take()
    assert is_error(first, "unavailable", action="publish", topic="news", id=1)
    assert second == ack("subscribe", "news", id=2)
    assert is_error(third, "invalid_topic", action="subscribe", topic="", id=3)
    assert is_error(fourth, "invalid_json")
    world.broker.answer = None
    assert [told["type"] for told in client.send(publish("news", id=5))] == ["publish", "ack"]


async def test_a_publisher_too_many_ahead_of_the_broker_is_not_read(world: World) -> None:
    client = world.connect()
    futures = []
    for id in range(MAX_WAITING):
        futures.append(future())
        world.broker.answer = futures[-1]
        pending = client.session.receive(publish("news", id=id))
        assert (pending is None) == (id < MAX_WAITING - 1)
    assert pending is not None

    reading = asyncio.ensure_future(pending)
    await turn()
    assert not reading.done()
    futures[0].set_result(None)
    await asyncio.wait_for(reading, 30)
    assert client.transport.take() == [ack("publish", "news", id=0)]


@pytest.mark.parametrize("frame", [subscribe("news"), "{"], ids=["acks", "errors"])
async def test_a_client_with_too_many_replies_that_wait_for_the_broker_is_not_read(
    world: World, frame: str
) -> None:
    client = world.connect()
    world.broker.answer = accepted = future()
    client.send(publish("sport", id=0))
    for _ in range(MAX_WAITING - 2):
        client.send(frame)
    reading = asyncio.ensure_future(client.start(frame))
    client.session.receive_too_large(100_000, b"", b"")  # which nobody awaits
    await turn()
    assert not reading.done()

    accepted.set_result(None)
    await asyncio.wait_for(reading, 30)
    assert len(client.transport.take()) == MAX_WAITING + 1
    client.send(frame)


async def test_a_publisher_is_read_on_when_the_broker_has_answered_but_that_was_not_told(
    world: World,
) -> None:
    """The callbacks of a future that is done in this turn run in the next: to wait for it must not prevent that."""
    client = world.connect()
    futures = [future() for _ in range(MAX_WAITING)]
    for id, accepted in enumerate(futures):
        world.broker.answer = accepted
        pending = client.session.receive(publish("news", id=id))
    for accepted in futures:
        accepted.set_result(None)

    assert pending is not None
    with alarm(5):
        await pending  # by nobody's task but this, which does not give the loop a turn in between
    await turn()
    assert [told["id"] for told in client.transport.take()] == list(range(MAX_WAITING))


async def test_an_answer_of_the_broker_to_a_client_that_has_gone_is_nobodys(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    futures = [future() for _ in range(2)]
    client = world.connect()
    for id, accepted in enumerate(futures):
        world.broker.answer = accepted
        client.send(publish("news", id=id))

    client.session.closed()
    futures[0].cancel()  # as where the loop that served it ends
    futures[1].set_exception(Unavailable("the server is stopping"))
    await turn()

    assert world.is_empty()
    assert caplog.records == []


async def test_the_session_lives_on_after_errors_of_policy_and_broker(world: World) -> None:
    answers = iter([raise_later(RateLimited(1)), answer_later(False), answer_later(True)])
    client = world.connect(policy=RecordingPolicy(lambda: next(answers)))

    for id in range(3):
        await client.start(subscribe("news", id=id))

    codes = [told.get("code", "ack") for told in client.transport.take()]
    assert codes == ["rate_limited", "forbidden", "ack"]


async def raise_later(error: Exception) -> Any:
    raise error


class TestReadersThatAreBehind:
    """Publishers wait for them: docs/explanation/architecture.md, "Slow readers and fast publishers"."""

    async def test_a_publisher_waits_until_they_have_caught_up(self, world: World) -> None:
        reader, publisher = world.connect("reader"), world.connect("publisher")
        reader.send(subscribe("news"))
        reader.session.on_backpressure(True)
        reader.transport.until_caught_up = future()

        waiting = asyncio.ensure_future(publisher.start(publish("news.uk", id=1)))
        # What was published has arrived, and is acknowledged: only the next frame is put off.
        assert publisher.transport.take() == [ack("publish", "news.uk", id=1)]
        assert len(reader.transport.take()) == 1
        await turn()
        assert not waiting.done()

        reader.session.on_backpressure(False)
        reader.transport.until_caught_up.set_result(None)
        await waiting
        assert publisher.send(publish("news.uk")) == [ack("publish", "news.uk")]

    async def test_it_waits_for_each_of_them(self, world: World) -> None:
        readers = [world.connect(str(number)) for number in range(3)]
        publisher = world.connect("publisher")
        for reader in readers:
            reader.send(subscribe("news"))
            reader.session.on_backpressure(True)
            reader.transport.until_caught_up = future()
        waiting = asyncio.ensure_future(publisher.start(publish("news")))
        for reader in readers:
            await turn()
            assert not waiting.done()
            reader.session.on_backpressure(False)
            assert reader.transport.until_caught_up is not None
            reader.transport.until_caught_up.set_result(None)
        await waiting

    async def test_other_topics_and_other_frames_do_not_wait(self, world: World) -> None:
        reader, client = world.connect("reader"), world.connect("client")
        reader.send(subscribe("news"))
        reader.session.on_backpressure(True)
        reader.transport.until_caught_up = future()
        assert client.send(publish("sport")) == [ack("publish", "sport")]
        assert client.send(subscribe("news")) == [ack("subscribe", "news")]
        assert client.send("{")[0]["code"] == "invalid_json"

    @pytest.mark.parametrize("role", [Role.PEER, Role.WORKER])
    async def test_nor_do_peers_and_the_worker(self, world: World, role: Role) -> None:
        """Their messages come from many publishers."""
        reader = world.connect("reader")
        sender = world.connect(identity=Identity("sender", role=role, peer="north"))
        reader.send(subscribe("news"))
        reader.session.on_backpressure(True)
        reader.transport.until_caught_up = future()
        assert sender.send(publish("news")) == [ack("publish", "news")]

    async def test_one_that_leaves_is_waited_for_no_longer(self, world: World) -> None:
        reader, publisher = world.connect("reader"), world.connect("publisher")
        reader.send(subscribe("news"))
        reader.session.on_backpressure(True)
        reader.transport.until_caught_up = future()
        waiting = asyncio.ensure_future(publisher.start(publish("news")))
        await turn()
        reader.session.closed()
        reader.transport.until_caught_up.set_result(None)  # as its transport does
        await waiting
        # Told late, it is of no effect.
        reader.session.on_backpressure(True)
        assert world.node.hub.lagging == set()

    async def test_the_broker_is_waited_for_as_well(self, world: World) -> None:
        reader, publisher = world.connect("reader"), world.connect("publisher")
        reader.send(subscribe("news"))
        reader.session.on_backpressure(True)
        reader.transport.until_caught_up = future()
        world.broker.answer = future()
        waiting = asyncio.ensure_future(publisher.start(publish("news", id=1)))
        await turn()
        assert publisher.transport.take() == []
        world.broker.answer.set_result(None)
        await turn()
        assert publisher.transport.take() == [ack("publish", "news", id=1)]
        assert not waiting.done()
        reader.session.on_backpressure(False)
        reader.transport.until_caught_up.set_result(None)
        await waiting
