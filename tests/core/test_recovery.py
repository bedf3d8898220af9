"""Clients on two nodes of one log, which lose connections, rights, and the end of the log: each has everything, once, in order.

The clients are models that do what docs/reference/protocol.md asks of them, "Recovery".
"""

import json
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from dwsps_channels.core import pacing, replay
from dwsps_channels.core.identity import Identity
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.policy import Decision
from dwsps_channels.core.services import Services
from dwsps_channels.core.session import Session
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.protocol.frames import Frame
from dwsps_channels.protocol.topics import contexts
from tests.core.recording import BufferingTransport
from tests.core.shared_log import Place, Server, SharedLog, place_of

TOPICS = ["a", "a.b", "a.b.c", "a.d", "e"]
topics = st.sampled_from(TOPICS)
denied_sets = st.frozensets(st.sampled_from(["a.b", "a.b.c", "a.d"]), max_size=2)
firsts = st.sampled_from(["", "", *TOPICS])
refused_sets = st.just(frozenset[str]()) | st.frozensets(topics, max_size=2)
batches = st.lists(topics, max_size=6) | st.lists(topics, min_size=10, max_size=16)
counts = st.sampled_from([0, 1, 2, 3, 5, 8, 100])
nodes = st.integers(0, 1)
clients = st.integers(0, 2)


class Rules:
    """The policy of one client: it may publish everything. It is refused some topics, and denied some below others."""

    def __init__(self) -> None:
        self.denied: frozenset[str] = frozenset()
        self.refused: frozenset[str] = frozenset()

    def may_subscribe(self, identity: Identity, topic: str) -> bool | Decision:
        if topic in self.refused:
            return False
        denied = tuple(each for each in self.denied if each.startswith(f"{topic}."))
        return Decision(True, denied=denied) if denied else True

    def may_publish(self, identity: Identity, topic: str) -> bool:
        return True


def is_denied(topic: str, context: str, denied: frozenset[str]) -> bool:
    """Tell whether a subscription to ``context`` does not get what is published to ``topic``."""
    return any(each in denied and each.startswith(f"{context}.") for each in contexts(topic))


class CheckingTransport(BufferingTransport):
    """Nothing is given to it that its client may not have at that moment."""

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self.rules = rules

    def send(self, frame: Frame) -> None:
        message = json.loads(frame.data)
        if message["type"] == "publish":
            assert message["context"] not in self.rules.refused
            assert not is_denied(message["topic"], message["context"], self.rules.denied)
        super().send(frame)


@dataclass
class Subscription:
    """A model client's subscription, and all that it had since it was made, or was last told to load its state."""

    start: Place | None = None
    """The place from which on it gets everything; ``None``: not acknowledged yet."""
    asked: int = 0
    """The id of its subscribe."""
    last: int = 0
    """The offset of its last delivery, or of where it starts."""
    received: list[int] = field(default_factory=list)
    rules: list[frozenset[str]] = field(default_factory=list)
    """The topics that were denied since it was made, one after the other: those that may hold for what it had."""


class Client:
    """Follows the rules for clients. ``finished`` has what is over of its subscriptions: topic, start and messages."""

    def __init__(self, log: SharedLog) -> None:
        self.log = log
        self.rules = Rules()
        self.subscriptions: dict[str, Subscription] = {}
        self.cursor: Place | None = None
        self.epoch = ""
        self.is_recovering = False
        self.appetite = 1
        """The frames that it reads whenever its session waits."""
        self.replayed: set[str] = set()
        """The contexts of deliveries since the resume."""
        self.resumed: dict[str, Subscription] = {}
        """The subscriptions that the resume is for."""
        self.asked = 0
        self.transport: BufferingTransport | None = None
        self.server: Server
        self.session: Session

    def connect(self, server: Server, first: str = "") -> None:
        """Come back; if ``first`` is a topic, publish there before all else: the resume waits for that."""
        self.server, self.transport = server, CheckingTransport(self.rules)
        self.session = Session(
            Services(server.node, self.rules, pause=self.pause),
            self.transport,
            Identity(f"{id(self.transport)}"),
            Limits(buffered_bytes=1200),
        )
        server.sessions.add(self.session)
        self.session.open()
        if first:
            self.publish(first)
        known = [topic for topic, each in self.subscriptions.items() if each.start is not None]
        if known:
            assert self.cursor is not None
            self.is_recovering = True
            self.replayed = set()
            self.resumed = {topic: self.subscriptions[topic] for topic in known}
            self.send(type="resume", since="{}:{}".format(*self.cursor), topics=known)
        for topic, each in self.subscriptions.items():
            if each.start is None:
                self.ask(topic)

    def ask(self, topic: str) -> None:
        self.asked += 1
        self.subscriptions[topic].asked = self.asked
        self.send(type="subscribe", topic=topic, last=0, id=self.asked)

    def disconnect(self) -> None:
        if self.transport is not None:
            self.session.closed()
            self.server.sessions.discard(self.session)
            self.transport = None
            self.is_recovering = False
            if self.cursor is not None and self.cursor[0] != self.epoch:
                # What was said in another epoch, and not followed by an ack.
                self.enter(self.cursor[0])

    def send(self, **frame: Any) -> None:
        if self.transport is None:
            return
        pending = self.session.receive(json.dumps(frame))
        if pending is not None:
            finish(pending)
        if self.transport.code is not None:
            # It was too slow for its replay: what it did not read is lost, and there is no ack.
            assert self.transport.code == CloseCode.SLOW_CONSUMER
            self.disconnect()

    async def pause(self, _: float) -> None:
        """Its session waits: the client reads, and its server reads the log."""
        self.server.read(1)
        self.read(self.appetite)

    def publish(self, topic: str) -> None:
        if self.transport is not None:
            self.send(type="publish", topic=topic, message=self.log.next_number())

    def subscribe(self, topic: str) -> None:
        if topic not in self.subscriptions:
            self.subscriptions[topic] = Subscription(rules=[self.rules.denied])
            self.ask(topic)

    def unsubscribe(self, topic: str) -> None:
        if self.subscriptions.pop(topic, None) is not None and self.transport is not None:
            self.send(type="unsubscribe", topic=topic)

    def read(self, count: int) -> None:
        if self.transport is not None:
            frames = self.transport.frames
            taken, frames[:] = frames[:count], frames[count:]
            for frame in taken:
                self.handle(json.loads(frame.data))

    def handle(self, message: dict[str, Any]) -> None:
        match message:
            case {"type": "publish", "context": context, "offset": offset, "message": number}:
                self.deliver(context, offset, number)
            case {"type": "ack", "action": "subscribe", "topic": topic, "cursor": cursor}:
                self.learn(place_of(cursor))
                if self.is_asked(topic, message["id"]):
                    self.begin(topic, place_of(cursor))
            case {"action": "publish"}:
                pass
            case {"type": "error", "action": "subscribe", "topic": topic, "code": "forbidden"}:
                if self.is_asked(topic, message["id"]):
                    del self.subscriptions[topic]
            case {"type": "unsubscribed", "topic": topic}:
                if topic in self.subscriptions and self.subscriptions[topic].start is not None:
                    self.check(topic)
                    del self.subscriptions[topic]
            case {"type": "ack", "action": "resume", "topics": outcomes, "cursor": cursor}:
                self.is_recovering = False
                self.learn(place_of(cursor))
                for topic, outcome in outcomes.items():
                    is_wanted = self.subscriptions.get(topic) is self.resumed[topic]
                    assert outcome.get("recovered") or topic not in self.replayed
                    if "error" in outcome:
                        if is_wanted:
                            self.check(topic)
                            del self.subscriptions[topic]
                    elif not outcome["recovered"] and is_wanted:
                        self.begin(topic, place_of(cursor))
            case {"type": "reset", "cursor": cursor}:
                self.learn(place_of(cursor))
                if not self.is_recovering:
                    for topic, each in self.subscriptions.items():
                        if each.start is not None:
                            self.begin(topic, place_of(cursor))
            case {"cursor": cursor}:
                self.learn(place_of(cursor))
            case _:
                raise AssertionError(message)

    def is_asked(self, topic: str, request: int) -> bool:
        subscription = self.subscriptions.get(topic)
        return subscription is not None and subscription.asked == request

    def learn(self, place: Place) -> None:
        if place[0] != self.epoch:
            self.enter(place[0])
        if not self.is_recovering:
            self.cursor = place

    def enter(self, epoch: str) -> None:
        self.epoch = epoch
        for each in self.subscriptions.values():
            each.last = 0

    def begin(self, topic: str, place: Place) -> None:
        """Load the state, as far as this subscription is concerned."""
        self.check(topic)
        rules = self.subscriptions[topic].rules
        self.subscriptions[topic] = Subscription(place, place[1], rules=rules)

    def deny(self, denied: frozenset[str], refused: frozenset[str]) -> None:
        """Change the rules, and have the session ask again."""
        self.rules.denied, self.rules.refused = denied, refused
        for each in self.subscriptions.values():
            each.rules.append(denied)
        if self.transport is not None:
            assert self.session.recheck(None) is None

    def deliver(self, context: str, offset: int, number: int) -> None:
        self.replayed.add(context)
        subscription = self.subscriptions.get(context)
        if subscription is None or subscription.start is None:
            return
        if offset > subscription.last:
            subscription.last = offset
            subscription.received.append(number)
        if not self.is_recovering and self.cursor is not None:
            shallower = any(each in self.subscriptions for each in contexts(context)[1:])
            self.cursor = self.epoch, max(self.cursor[1], offset - shallower)

    def check(self, topic: str, *, is_all: bool = False) -> None:
        """Check what came on a subscription: everything from where it starts that is not denied, once and in order.

        What was denied for a time may have come or not. ``CheckingTransport`` looks at when it was sent.
        """
        subscription = self.subscriptions[topic]
        if subscription.start is not None:
            received = set(subscription.received)
            expected = [
                number
                for published, number in self.log.expected(topic, subscription.start)
                if number in received
                or not any(is_denied(published, topic, each) for each in subscription.rules)
            ]
            assert len(received) == len(subscription.received)
            assert subscription.received == (expected if is_all else expected[: len(received)])


def finish(pending: Awaitable[None]) -> None:
    """Run what waits for nothing but the pause of its server."""
    try:
        pending.__await__().send(None)
    except StopIteration:
        return
    raise AssertionError("it waits for something else")


@pytest.fixture(autouse=True, scope="module")
def _few_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (replay, pacing):
            patch.setattr(module, "MAX_AT_ONCE", 4)
        yield


class Recoveries(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.log = SharedLog()
        self.servers = [Server(self.log, kept=8, resumed=6), Server(self.log, kept=30, resumed=30)]
        self.clients = [Client(self.log) for _ in range(3)]

    @initialize(
        appetites=st.lists(counts, min_size=3, max_size=3),
        wanted=st.lists(st.sets(topics, min_size=1), min_size=3, max_size=3),
        published=st.lists(topics, max_size=3),
        denied=denied_sets,
    )
    def begin(
        self,
        appetites: list[int],
        wanted: list[set[str]],
        published: list[str],
        denied: frozenset[str],
    ) -> None:
        self.publish(published)
        for server in self.servers:
            server.read(100)
        self.clients[0].rules.denied = denied
        for number, client in enumerate(self.clients):
            client.appetite = appetites[number]
            client.connect(self.servers[number % 2])
            for topic in sorted(wanted[number]):
                client.subscribe(topic)
            client.read(100)

    @rule(published=batches)
    def publish(self, published: list[str]) -> None:
        for topic in published:
            self.log.publish(topic)

    @rule(client=clients, published=batches, count=counts)
    def receive_a_part_of_what_is_published(
        self, client: int, published: list[str], count: int
    ) -> None:
        self.publish(published)
        if self.clients[client].transport is not None:
            self.clients[client].server.read(100)
            self.clients[client].read(count)

    @rule(client=clients, published=batches, server=nodes, read=counts, count=counts, first=firsts)
    def be_away(
        self, client: int, published: list[str], server: int, read: int, count: int, first: str
    ) -> None:
        self.clients[client].disconnect()
        self.publish(published)
        self.servers[server].read(read)
        self.clients[client].connect(self.servers[server], first)
        self.clients[client].read(count)

    @rule(server=nodes, count=counts)
    def read_the_log(self, server: int, count: int) -> None:
        self.servers[server].read(count)

    @rule(client=clients, server=nodes)
    def connect(self, client: int, server: int) -> None:
        self.clients[client].disconnect()
        self.clients[client].connect(self.servers[server])

    @rule(client=clients, topic=topics)
    def subscribe(self, client: int, topic: str) -> None:
        self.clients[client].subscribe(topic)

    @rule(client=clients, topic=topics)
    def unsubscribe(self, client: int, topic: str) -> None:
        self.clients[client].unsubscribe(topic)

    @rule(client=clients, denied=denied_sets, refused=refused_sets)
    def deny(self, client: int, denied: frozenset[str], refused: frozenset[str]) -> None:
        self.clients[client].deny(denied, refused)

    @rule(client=clients, topic=topics)
    def publish_as_client(self, client: int, topic: str) -> None:
        """From then on its replies wait until its process has read that."""
        self.clients[client].publish(topic)

    @rule(client=clients, count=counts)
    def change_pace(self, client: int, count: int) -> None:
        self.clients[client].appetite = count

    @rule(client=clients, count=counts)
    def receive(self, client: int, count: int) -> None:
        self.clients[client].read(count)

    @rule(client=clients)
    def lose_the_connection(self, client: int) -> None:
        self.clients[client].disconnect()

    @rule(client=clients)
    def be_sent_away(self, client: int) -> None:
        one = self.clients[client]
        if one.transport is not None:
            one.session.close(CloseCode.GOING_AWAY, Unavailable("the server is going away"))
            one.read(1000)
            one.handle(one.transport.final_frame)
            one.disconnect()

    @rule(server=nodes)
    def kill_a_server(self, server: int) -> None:
        for client in self.clients:
            if client.transport is not None and client.server is self.servers[server]:
                client.disconnect()
        self.servers[server].start()

    @rule(server=nodes)
    def miss_a_part_of_the_log(self, server: int) -> None:
        self.servers[server].begin()

    @rule(count=st.integers(0, 4), number=st.integers(0, 2))
    def lose_the_end_of_the_log(self, count: int, number: int) -> None:
        self.log.renew(max(0, len(self.log.publications) - count))
        for _ in range(number):
            self.log.publish("a.b")

    def teardown(self) -> None:
        for client in self.clients:
            for topic in client.subscriptions:
                client.check(topic)
        # Then everything calms down.
        for server in self.servers:
            server.read(0)
            server.read(1000)
        for number, client in enumerate(self.clients):
            client.appetite = 100
            if client.transport is None or number == 0:
                client.disconnect()
                client.connect(self.servers[number % 2])
            client.read(1000)
            for topic in client.subscriptions:
                client.check(topic, is_all=True)


TestRecoveries = Recoveries.TestCase
TestRecoveries.settings = settings(stateful_step_count=25, max_examples=200)
