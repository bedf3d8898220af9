"""Each message once and in order, or a reset, whatever happens to connection, log and rights."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from time import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dwsps_channels.client import (
    Ack,
    Client,
    ClientError,
    ConnectionLost,
    ServerError,
    Subscription,
)
from dwsps_channels.client import publishes as publishes_module
from dwsps_channels.client.subscription import Marker
from tests.client.model import Model, contexts
from tests.processes import wait_until_async

TOPICS = ["a", "a.b", "a.b.c", "d"]

TOPIC = st.sampled_from(TOPICS)
FEW = st.integers(1, 4)
SUBSCRIBE = st.tuples(
    st.just("subscribe"),
    TOPIC,
    st.sampled_from(["live", "live", "since", "last"]),
    st.sampled_from([False, False, True]),
)
FLOW = st.just(("flow",))
STEP = st.one_of(
    st.tuples(st.just("publish"), TOPIC),
    st.tuples(st.just("publish"), TOPIC),
    st.tuples(st.just("send"), TOPIC),
    SUBSCRIBE,
    st.tuples(st.just("unsubscribe"), st.integers(0, 3)),
    st.tuples(st.just("end"), TOPIC),
    st.tuples(st.just("handle"), FEW),
    st.tuples(st.just("arrive"), FEW),
    st.tuples(st.just("arrive"), FEW),
    FLOW,
    FLOW,
    st.just(("break",)),
    st.just(("connect",)),
    st.just(("connect",)),
    st.just(("connect",)),
    st.tuples(st.just("evict"), FEW),
    st.just(("begin_epoch",)),
)
# A client that has subscriptions; then anything.
STEPS = st.tuples(
    st.just([("connect",)]),
    st.lists(SUBSCRIBE, min_size=1, max_size=4),
    st.just([("flow",)]),
    st.lists(STEP, min_size=30, max_size=60),
).map(lambda parts: [step for part in parts for step in part])


class Reader:
    """A subscription, and what its reader has seen."""

    def __init__(self, world: "World", topic: str, start: str, has_grant: bool = False) -> None:
        self.topic = topic
        options: dict[str, Any] = {}
        self.begin_at: int | None = None
        """How many were published before those that it must get."""
        if start == "since" and (cursor := world.client.cursor):
            options["since"] = cursor
            self.begin_at = world.model.count(cursor)
        elif start == "last":
            options["last"] = 2
        if has_grant:
            options["grant"] = self.grant
        self.world = world
        self.subscription: Subscription = world.client.subscribe(
            topic, on_reset=lambda: None, **options
        )
        self.begins = asyncio.create_task(self.subscription.begin())
        self.seen: list[int] = []
        self.gaps: dict[int, int] = {}
        """By place in ``seen`` how many were published when a reset was told there."""
        self.end_at: int | None = None
        """How many were published when the server ended the subscription."""

    async def grant(self) -> str:
        await asyncio.sleep(0)
        return "grant"

    async def read(self) -> None:
        """Take all that waits, and note when the subscription was acknowledged."""
        if self.begins.done() and self.begin_at is None:
            self.begin_at = len(self.world.model.published)
        while self.begins.done() and self.subscription._queue:
            item = await self.subscription.next()
            if item is Marker.RESET:
                self.gaps[len(self.seen)] = len(self.world.model.published)
            elif item is not None:
                self.seen.append(item.message)
        if isinstance(error := self.subscription._error, ServerError):
            self.end_at = int(error.reason)

    def check(self) -> None:
        """Check that nothing came twice or out of order, and that nothing is missing without a reset."""
        published = self.world.model.published[: self.end_at]
        matching = [each.number for each in published if self.topic in contexts(each.topic)]
        assert self.seen == sorted(set(self.seen))
        assert set(self.seen) <= set(matching)
        assert self.begin_at is not None
        begins = {0: self.begin_at, **self.gaps}
        for place in range(len(self.seen) + 1):
            after = self.seen[place - 1] if place else -1
            after = max(after, begins.get(place, 0) - 1)
            before = self.seen[place] if place < len(self.seen) else len(published)
            missing = [number for number in matching if after < number < before]
            assert not missing, (self.topic, self.seen, self.gaps, matching)


class World:
    """A client, the model of its server, and readers."""

    def __init__(self, **options: Any) -> None:
        self.model = Model()
        options = {"min_delay": 0.0, "max_delay": 0.0, "timeout": 60} | options
        self.client = Client("ws://model/", **options)
        self.client._open = self.model.open  # type: ignore[assignment]
        self.readers: list[Reader] = []
        self.publishes: list[asyncio.Task[Ack]] = []

    async def run(self, steps: list[Any]) -> None:
        self.client.connect()
        for name, *arguments in steps:
            getattr(self, f"do_{name}")(*arguments)
            await self.settle()
        await self.finish()
        for reader in self.readers:
            reader.check()
        offsets = [(await task).offset for task in self.publishes]
        await self.client.close()
        assert None not in offsets

    async def settle(self) -> None:
        """Let everybody do what there is to do; then read."""
        for _ in range(12):
            await asyncio.sleep(0)
        for reader in self.readers:
            await reader.read()

    async def finish(self) -> None:
        """Connect, and let all that is on its way arrive."""
        self.do_connect()
        await self.settle()
        for _ in range(1000):
            connection = self.model.connection
            assert connection is not None
            if not connection.to_server and not connection.to_client:
                break
            self.do_flow()
            await self.settle()
        assert self.client.state == "open"

    # Steps

    def do_publish(self, topic: str) -> None:
        self.model.publish(topic)

    def do_send(self, topic: str) -> None:
        # Before it has seen the log, the client does not send again.
        if self.client._publishes.server_has_log:
            self.publishes.append(asyncio.create_task(self.client.publish(topic, "mine")))

    def do_subscribe(self, topic: str, start: str, has_grant: bool = False) -> None:
        self.readers.append(Reader(self, topic, start, has_grant))

    def do_unsubscribe(self, number: int) -> None:
        if number < len(self.readers):
            reader = self.readers.pop(number)
            reader.begins.cancel()
            reader.subscription.leave()

    def do_end(self, topic: str) -> None:
        self.model.end_subscription(topic)

    def do_handle(self, count: int) -> None:
        connection = self.model.connection
        while connection is not None and connection.to_server and count:
            self.model.handle()
            count -= 1

    def do_arrive(self, count: int) -> None:
        connection = self.model.connection
        while connection is not None and connection.to_client and count:
            connection.arrive()
            count -= 1

    def do_flow(self) -> None:
        self.do_handle(100)
        self.do_arrive(100)

    def do_break(self) -> None:
        self.model.break_connection()

    def do_connect(self) -> None:
        if self.model.connection is None:
            self.model.may_connect.set()

    def do_evict(self, count: int) -> None:
        self.model.evict(count)

    def do_begin_epoch(self) -> None:
        self.model.begin_epoch()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_each_reader_gets_each_message_once_and_in_order_or_is_told(steps: list[Any]) -> None:
    async def play() -> None:
        world = World()
        try:
            await world.run(steps)
        finally:
            with suppress(ClientError):
                await world.client.close()

    asyncio.run(play())


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A client that is connected and has seen the log, with a reader of the topic d."""
    world = World()
    await begin(world)
    yield world
    await world.client.close()


async def begin(world: World) -> None:
    world.client.connect()
    world.do_subscribe("d", "live")
    await world.finish()
    assert world.client.cursor == "e1:0"


async def test_publishes_in_flight_come_before_those_that_wait(world: World) -> None:
    world.do_break()
    await world.settle()
    publishes = [asyncio.create_task(world.client.publish("a", n)) for n in range(40)]
    world.do_connect()
    await world.settle()
    connection = world.model.connection
    assert connection is not None
    in_flight = [frame for frame in connection.to_server if frame["type"] == "publish"]
    assert 0 < len(in_flight) < 40  # no more at once than the server may allow
    world.do_break()
    await world.settle()
    await world.finish()
    acks = await asyncio.gather(*publishes)
    assert [ack.offset for ack in acks] == list(range(1, 41))


async def test_a_publish_that_was_given_up_is_not_sent_again(world: World) -> None:
    publishing = asyncio.create_task(world.client.publish("a", 1))
    await world.settle()
    publishing.cancel()
    world.do_break()
    await world.settle()
    await world.finish()
    assert world.model.keys == {}


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_publish_whose_key_the_server_may_have_forgotten_is_not_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    publishing = asyncio.create_task(world.client.publish("a", 1))
    await world.settle()
    world.do_break()
    await world.settle()
    # The machine sleeps: the loop's clock stands still, the server's does not.
    monkeypatch.setattr(publishes_module, "time", lambda: time() + hours * 3600)
    await world.finish()
    with pytest.raises(ConnectionLost):
        await publishing
    assert world.model.keys == {}


async def test_a_server_that_leaves_a_resume_unanswered_is_asked_topic_by_topic(
    world: World,
) -> None:
    [reader] = world.readers
    world.model.knows_resume = False
    world.do_break()
    world.do_publish("d")
    await world.settle()
    world.client._timeout = 0.1  # of the next connection
    world.do_connect()
    await wait_until_async(lambda: world.model.connection)
    world.do_flow()
    # Nothing comes at all, so the connection is given up.
    await wait_until_async(
        lambda: world.client.last_error and "silent" in str(world.client.last_error)
    )
    world.client._timeout = 60.0
    world.model.connection = None
    await world.finish()
    assert (reader.seen, reader.gaps) == ([0], {})


async def test_the_last_messages_are_no_more_than_were_asked_for(world: World) -> None:
    for _ in range(10):
        world.do_publish("d")
    world.do_flow()
    await world.settle()
    older = Reader(world, "d", "last")
    oldest = world.client.subscribe("d", since="e1:0")
    begins = asyncio.create_task(oldest.begin())
    await world.settle()
    newer = Reader(world, "d", "last")
    world.readers += [older, newer]
    await world.settle()
    await world.finish()
    await begins
    assert older.seen == newer.seen == [8, 9]
    assert [(await oldest.next()).message for _ in range(10)] == list(range(10))  # type: ignore[union-attr]


async def test_a_reader_that_comes_while_there_is_no_connection_gets_nothing_older(
    world: World,
) -> None:
    [first] = world.readers
    world.do_break()
    world.do_publish("d")
    await world.settle()
    world.do_subscribe("d", "live")
    await world.settle()
    await world.finish()
    world.do_publish("d")
    await world.finish()
    assert [reader.seen for reader in world.readers] == [[0, 1], [1]]
    assert first.gaps == {}


async def test_two_servers_without_a_common_log_lose_nothing_that_one_can_replay(
    world: World,
) -> None:
    """A break while a resume is under way brings the client back to the first server."""
    [reader] = world.readers
    world.do_subscribe("a", "live")
    await world.settle()
    world.do_publish("d")
    world.do_flow()
    await world.settle()
    first = (world.model.epoch, world.model.end, world.model.kept)
    world.do_break()
    await world.settle()
    # One topic is told a reset by the other server, which then breaks before it has answered all.
    world.client._subscriptions._recovery._one_by_one = True
    world.model.epoch, world.model.end, world.model.kept = 2, 5000, []
    world.do_connect()
    await world.settle()
    world.do_handle(1)
    world.do_arrive(1)
    await world.settle()
    assert reader.gaps
    world.do_break()
    world.model.epoch, world.model.end, world.model.kept = first
    world.do_publish("d")
    await world.settle()
    await world.finish()
    assert reader.seen[-1] == 1
