"""The client on sessions of two processes with one log: each message once and in order, or a reset.

Frames move, processes read the log, and rights are taken away when the steps say so. ``test_recovery.py`` has the client on a
model of the server, ``tests/core/test_recovery.py`` a model of a client on sessions.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dwsps_channels.client import Ack, Client, ClientError, ConnectionClosed, ServerError
from dwsps_channels.client.subscription import Marker, Subscription
from dwsps_channels.core import pacing, replay
from dwsps_channels.core.identity import Identity
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.policy import Decision
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.services import Services
from dwsps_channels.core.session import Session
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.protocol.topics import contexts
from tests.core.recording import BufferingTransport
from tests.core.shared_log import LogBroker, Place, Server, SharedLog, place_of

TOPICS = ["a", "a.b", "a.b.c", "e"]

TOPIC = st.sampled_from(TOPICS)
FEW = st.integers(1, 4)
SERVER = st.integers(0, 1)
PUBLISH = st.tuples(st.just("publish"), TOPIC, st.sampled_from([1, 1, 2, 6]))
SUBSCRIBE = st.tuples(
    st.just("subscribe"), TOPIC, st.sampled_from(["live", "live", "since", "last"])
)
CONNECT = st.tuples(st.just("connect"), SERVER)
FLOW = st.just(("flow",))
STEP = st.one_of(
    PUBLISH,
    PUBLISH,
    st.tuples(st.just("send"), TOPIC),
    st.tuples(st.just("send"), TOPIC),
    SUBSCRIBE,
    SUBSCRIBE,
    st.tuples(st.just("unsubscribe"), st.integers(0, 3)),
    st.tuples(st.just("end"), TOPIC),
    st.just(("look_up",)),
    st.tuples(st.just("handle"), FEW),
    st.tuples(st.just("arrive"), FEW),
    st.tuples(st.just("arrive"), FEW),
    st.tuples(st.just("read"), SERVER, FEW),
    st.tuples(st.just("read"), SERVER, st.just(100)),
    FLOW,
    FLOW,
    st.just(("break",)),
    CONNECT,
    CONNECT,
    CONNECT,
    st.just(("go_away",)),
    st.tuples(st.just("kill"), SERVER),
    st.tuples(st.just("miss"), SERVER),
    st.tuples(st.just("lose_end"), FEW),
    st.tuples(st.just("decide_later"), st.booleans()),
)
# The answer to a subscribe waits for that to a publish.
BEHIND_A_PUBLISH = st.tuples(
    st.tuples(st.just("send"), TOPIC),
    st.tuples(st.just("subscribe"), TOPIC, st.sampled_from(["live", "since", "last"])),
    st.just(("handle", 4)),
    st.one_of(
        st.tuples(st.just("end"), TOPIC),
        st.tuples(st.just("miss"), SERVER),
        st.tuples(st.just("lose_end"), FEW),
    ),
)
# A client that has subscriptions; then anything.
STEPS = st.tuples(
    st.just([("connect", 0)]),
    st.lists(SUBSCRIBE, min_size=1, max_size=4),
    st.just([("flow",)]),
    st.lists(STEP.map(lambda step: [step]) | BEHIND_A_PUBLISH, min_size=1, max_size=50).map(
        lambda groups: [step for group in groups for step in group]
    ),
).map(lambda parts: [step for part in parts for step in part])


class LoopBroker(LogBroker):
    """Its outcomes are those of an event loop: who waits for one goes on a turn later."""

    def make_outcome(self) -> Any:
        return asyncio.get_running_loop().create_future()


class LoopServer(Server):
    def make_broker(self) -> LogBroker:
        return LoopBroker(self.log, lambda: None)


class Rules:
    """The policy: everything is allowed, but for ``refused``. The reason of a refusal is ``reason``."""

    def __init__(self) -> None:
        self.refused = ""
        self.reason = ""
        self.is_late = False

    def may_subscribe(self, identity: Identity, topic: str) -> Any:
        decision = Decision(topic != self.refused, self.reason)
        return self._late(decision) if self.is_late else decision

    async def _late(self, decision: Decision) -> Decision:
        for _ in range(20):
            await asyncio.sleep(0)
        return decision

    def may_publish(self, identity: Identity, topic: str) -> bool:
        return True


class Connection:
    """A connection, with a session at its other end. Frames move when they are told to."""

    latency = None

    def __init__(self, server: Server, rules: Rules) -> None:
        self.server = server
        self.to_server: deque[bytes] = deque()
        self.transport = BufferingTransport()
        self.session = Session(
            Services(server.node, rules, gather=asyncio.gather, pause=self._pause),
            self.transport,
            Identity(f"{id(self)}"),
            Limits(buffered_bytes=1500),
        )
        server.sessions.add(self.session)
        self.session.open()
        self.handling: asyncio.Future[None] | None = None
        self.rechecks: list[asyncio.Future[None]] = []
        self.closed: ConnectionClosed | None = None
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def _pause(self, _: float) -> None:
        """The session waits: the client reads, and the process reads the log."""
        self.server.read(1)
        self.arrive(2)
        await asyncio.sleep(0)

    async def send(self, data: bytes) -> None:
        if self.closed is not None:
            raise self.closed
        self.to_server.append(data)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (data := await self._arrived.get()) is not None:
            yield data
        assert self.closed is not None
        raise self.closed

    @property
    def is_busy(self) -> bool:
        return self.handling is not None and not self.handling.done()

    def handle(self, count: int) -> None:
        while self.to_server and count and not self.is_busy:
            pending = self.session.receive(self.to_server.popleft())
            self.handling = None if pending is None else asyncio.ensure_future(pending)
            count -= 1
        self._note_close()

    def arrive(self, count: int) -> None:
        frames = self.transport.frames
        taken, frames[:] = frames[:count], frames[count:]
        for frame in taken:
            self._arrived.put_nowait(frame.data)
        self._note_close()

    def recheck(self) -> None:
        if (pending := self.session.recheck(None)) is not None:
            self.rechecks.append(asyncio.ensure_future(pending))

    def look_up(self) -> None:
        async def find() -> Identity:
            for _ in range(30):
                await asyncio.sleep(0)
            return self.session.identity

        self.rechecks.append(asyncio.ensure_future(self.session.verify(find)))

    def _note_close(self) -> None:
        """Let the client see that the session has closed the connection, once it has got what was sent before."""
        if self.transport.code is not None and not self.transport.frames:
            self._arrived.put_nowait(json.dumps(self.transport.final_frame).encode())
            self.end(ConnectionClosed(self.transport.code, "closed", by_server=True))

    def end(self, closed: ConnectionClosed) -> None:
        if self.closed is None:
            self.closed = closed
            self._arrived.put_nowait(None)
            self.server.sessions.discard(self.session)
            self.session.closed()


class Reader:
    """A subscription, and what its reader has seen: the numbers of messages, over all epochs."""

    def __init__(self, world: "World", topic: str, start: str) -> None:
        self.world = world
        self.topic = topic
        self.begin_at: int | None = None
        """The first number that it must get, if its topic matches."""
        options: dict[str, Any] = {}
        if start == "since" and (cursor := world.client.cursor):
            options["since"] = cursor
            self.begin_at = world.next_after(place_of(cursor))
        elif start == "last":
            options["last"] = 2
        self.subscription: Subscription = world.client.subscribe(
            topic, on_reset=lambda: None, **options
        )
        self.begins = asyncio.ensure_future(self.subscription.begin())
        self.seen: list[int] = []
        self.gaps: dict[int, int] = {}
        """By place in ``seen`` how many were published when a reset was told there."""
        self.end_at: int | None = None
        """How many its process had read when the server ended the subscription."""

    @property
    def is_waiting(self) -> bool:
        return not self.begins.done()

    async def read(self) -> None:
        if self.begins.done() and self.begin_at is None:
            self.begin_at = len(self.world.published)
        while self.begins.done() and self.subscription._queue:
            item = await self.subscription.next()
            if item is Marker.RESET:
                self.gaps[len(self.seen)] = len(self.world.published)
            elif item is not None:
                self.seen.append(int(item.timestamp))
        if isinstance(error := self.subscription._error, ServerError) and self.end_at is None:
            self.end_at = int(error.reason.rpartition(" ")[2])

    def check(self) -> None:
        if self.begins.exception() is not None:
            return  # it was refused
        published = self.world.published
        matching = [int(each.timestamp) for each in published if self.topic in contexts(each.topic)]
        assert self.seen == sorted(set(self.seen))
        assert set(self.seen) <= set(matching)
        assert self.begin_at is not None
        end_at = len(published) if self.end_at is None else self.end_at
        for place in range(len(self.seen) + 1):
            after = self.seen[place - 1] if place else -1
            after = max(after, self.begin_at - 1, self.gaps.get(place, 0) - 1)
            before = self.seen[place] if place < len(self.seen) else end_at
            missing = [number for number in matching if after < number < before]
            assert not missing, (self.topic, self.seen, self.gaps, self.begin_at, matching)


class World:
    """The client, two processes, and readers."""

    def __init__(self) -> None:
        self.log = SharedLog()
        self.rules = Rules()
        self.servers = [
            LoopServer(self.log, kept=8, resumed=6),
            LoopServer(self.log, kept=30, resumed=30),
        ]
        self.connection: Connection | None = None
        self.connections: list[Connection] = []
        self._next_server: Server | None = None
        self._may_connect = asyncio.Event()
        self.client = Client("ws://sessions/", min_delay=0.0, max_delay=0.0, timeout=60)
        self.client._open = self._open  # type: ignore[assignment]
        self.readers: list[Reader] = []
        self.publishes: list[tuple[str, asyncio.Future[Ack]]] = []

    @asynccontextmanager
    async def _open(self, *, token: str | None) -> AsyncIterator[Connection]:
        await self._may_connect.wait()
        self._may_connect.clear()
        assert self._next_server is not None
        self.connection = Connection(self._next_server, self.rules)
        self.connections.append(self.connection)
        try:
            yield self.connection
        finally:
            self.connection.end(ConnectionClosed(1000, ""))
            self.connection = None

    @property
    def published(self) -> list[Publication]:
        """All over all epochs: the number of each is its place here, and its timestamp."""
        return self.log.appended

    def next_after(self, place: Place) -> int:
        """Return the number of the next publication after a place in the log."""
        epoch, offset = place
        rest = self.log.epochs[epoch][offset:]
        return int(rest[0].timestamp) if rest else len(self.published)

    def read_by(self, server: Server) -> int:
        """Return the number after the last publication that a process has read."""
        epoch, offset = server.read_to
        return int(self.log.epochs[epoch][offset - 1].timestamp) + 1 if offset else 0

    async def run(self, steps: list[Any]) -> None:
        self.client.connect()
        for name, *arguments in steps:
            getattr(self, f"do_{name}")(*arguments)
            await self.settle()
        await self.finish()
        for topic in TOPICS:
            self.log.publish(topic)
        await self.finish()
        for reader in self.readers:
            reader.check()
        await self.check_publishes()

    async def settle(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)
        for reader in self.readers:
            await reader.read()

    async def finish(self) -> None:
        """Let everything calm down: the client connected, all read and arrived."""
        for _ in range(1000):
            self.do_connect(0)
            for server in self.servers:
                server.read(0)
                server.read(1000)
            self.do_flow()
            await self.settle()
            connection = self.connection
            if (
                connection is not None
                and not connection.to_server
                and not connection.transport.frames
                and not connection.is_busy
                and all(each.done() for each in connection.rechecks)
                and all(each.done() for _, each in self.publishes)
                and self.client.state == "open"
                and not any(reader.is_waiting for reader in self.readers)
            ):
                return
        raise AssertionError("it does not calm down")

    async def check_publishes(self) -> None:
        for publications in self.log.epochs.values():
            messages = [bytes(each.message) for each in publications]
            assert len(messages) == len(set(messages)), (
                "a publish that was sent again took effect twice"
            )
        for message, publish in self.publishes:
            if publish.exception() is None:
                offset = publish.result().offset
                assert offset
                assert any(
                    json.loads(bytes(publications[offset - 1].message)) == message
                    for publications in self.log.epochs.values()
                    if len(publications) >= offset
                ), "it was acknowledged with another's offset"

    async def close(self) -> None:
        with suppress(ClientError):
            await self.client.close()
        waiting: list[asyncio.Future[Any]] = [each for _, each in self.publishes]
        waiting += [each.begins for each in self.readers]
        for connection in self.connections:
            waiting += [each for each in connection.rechecks if not each.done()]
            if connection.handling is not None:
                waiting.append(connection.handling)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    # Steps

    def do_publish(self, topic: str, count: int) -> None:
        for _ in range(count):
            self.log.publish(topic)

    def do_send(self, topic: str) -> None:
        message = f"mine {len(self.publishes)}"
        self.publishes.append((message, asyncio.ensure_future(self.client.publish(topic, message))))

    def do_subscribe(self, topic: str, start: str) -> None:
        self.readers.append(Reader(self, topic, start))

    def do_unsubscribe(self, number: int) -> None:
        if number < len(self.readers):
            reader = self.readers.pop(number)
            reader.begins.cancel()
            reader.subscription.leave()

    def do_end(self, topic: str) -> None:
        """Take a right away, for a moment."""
        if self.connection is not None:
            self.rules.refused = topic
            self.rules.reason = str(self.read_by(self.connection.server))
            self.connection.recheck()
            self.rules.refused = ""

    def do_look_up(self) -> None:
        """Have the client looked up again: it is sent nothing until that is done."""
        if self.connection is not None:
            self.connection.look_up()

    def do_decide_later(self, is_late: bool) -> None:
        self.rules.is_late = is_late

    def do_handle(self, count: int) -> None:
        if self.connection is not None:
            self.connection.handle(count)

    def do_arrive(self, count: int) -> None:
        if self.connection is not None:
            self.connection.arrive(count)

    def do_read(self, server: int, count: int) -> None:
        self.servers[server].read(count)

    def do_flow(self) -> None:
        self.do_handle(100)
        if self.connection is not None:
            self.connection.server.read(100)
        self.do_arrive(100)

    def do_break(self) -> None:
        if self.connection is not None:
            self.connection.end(ConnectionClosed(1006, "broken"))

    def do_connect(self, server: int) -> None:
        if self.connection is None:
            self._next_server = self.servers[server]
            self._may_connect.set()

    def do_go_away(self) -> None:
        if self.connection is not None:
            self.connection.session.close(CloseCode.GOING_AWAY, Unavailable("going away"))
            self.connection.arrive(1000)

    def do_kill(self, server: int) -> None:
        if self.connection is not None and self.connection.server is self.servers[server]:
            self.do_break()
        self.servers[server].start()

    def do_miss(self, server: int) -> None:
        self.servers[server].begin()

    def do_lose_end(self, count: int) -> None:
        self.log.renew(max(0, len(self.log.publications) - count))


@pytest.fixture(autouse=True)
def _few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (replay, pacing):
        monkeypatch.setattr(module, "MAX_AT_ONCE", 4)


async def play(steps: list[Any]) -> None:
    world = World()
    try:
        await world.run(steps)
    finally:
        await world.close()


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_each_reader_gets_each_message_once_and_in_order_or_is_told(steps: list[Any]) -> None:
    asyncio.run(play(steps))
