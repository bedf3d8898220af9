"""Random interleavings of rechecks, look-ups, requests and deliveries, against the rules of the moment.

Each question to the policy, and each look-up of the client, is answered by the state of the moment in which it was asked,
and the answer comes when the machine says so.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dwsps_channels.core.authenticator import Authentication
from dwsps_channels.core.identity import Identity
from dwsps_channels.core.log import Log
from dwsps_channels.core.policy import Decision
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.protocol.topics import contexts
from tests.core.recording import (
    RecordingTransport,
    World,
    publish,
    resume,
    subscribe,
    unsubscribe,
)

TOPICS = ["a", "a.b", "a.b.c", "a.d", "e"]
topics = st.sampled_from(TOPICS)


@dataclass(frozen=True)
class User:
    """A user in one of the states that the database had."""

    version: int
    pk: int = 1
    is_authenticated: bool = True


@dataclass(frozen=True)
class Right:
    """The right to one topic."""

    allowed: bool = True
    denied: tuple[str, ...] = ()


NO = Right(allowed=False)


def rights() -> st.SearchStrategy[dict[str, Right]]:
    one = st.builds(
        Right,
        st.sampled_from([True, True, False]),
        st.sampled_from([(), (), ("a.b",), ("a.b.c", "a.d")]),
    )
    return st.fixed_dictionaries({topic: one for topic in TOPICS})


class Machine(RuleBasedStateMachine):
    """One client whose rights change, and a publisher whose messages are numbered."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.rights: dict[str, Right] = dict.fromkeys(TOPICS, Right())
        # The right of each user, by version: a policy that caches with the user sees no later ones.
        self.versions = [self.rights]
        self.answers: list[tuple[asyncio.Future[Any], Any]] = []
        self.pauses: list[asyncio.Future[None]] = []
        self.frame: asyncio.Future[None] | None = None
        self.rechecks: list[asyncio.Future[None]] = []
        self.published = 0
        self.standing: set[str] = set()
        # The deliveries that are to come: the number of the message, its topic, its context.
        self.due: set[tuple[int, str, str]] = set()
        # What was looked at already, of the observer's events and of what the broker has taken.
        self.seen = self.taken = 0
        self.world = World()
        self.world.node.begin(Log("log"))
        self.transport = RecordingTransport()
        self.client = self.world.connect(
            identity=Identity("one", user=User(0)),
            policy=self,
            transport=self.transport,
            pause=self.pause,
            authenticator=self.authenticate,
        )
        self.publisher = self.world.connect("publisher")

    # The policy.

    def _answer(self, answer: Any) -> Any:
        waiting = self.loop.create_future()
        self.answers.append((waiting, answer))
        return waiting

    def may_subscribe(self, identity: Identity, topic: str) -> Any:
        right = self.versions[identity.user.version].get(topic, NO)
        return self._answer(Decision(right.allowed, denied=right.denied))

    def may_publish(self, identity: Identity, topic: str) -> Any:
        return self._answer(self.versions[identity.user.version].get(topic, NO).allowed)

    def authenticate(self, token: str) -> Any:
        return self._answer(Authentication(User(len(self.versions) - 1)))

    def pause(self, seconds: float) -> Awaitable[None]:
        waiting = self.loop.create_future()
        self.pauses.append(waiting)
        return waiting

    # What it does.

    def turns(self, count: int = 12) -> None:
        async def pass_() -> None:
            for _ in range(count):
                await asyncio.sleep(0)

        self.loop.run_until_complete(pass_())

    def start(self, pending: Awaitable[None] | None) -> "asyncio.Future[None] | None":
        return None if pending is None else asyncio.ensure_future(pending, loop=self.loop)

    @property
    def is_free(self) -> bool:
        return self.frame is None or self.frame.done()

    def send(self, frame: str) -> None:
        self.frame = self.start(self.client.session.receive(frame))
        self.turns()

    @initialize(first=st.lists(topics, min_size=1, max_size=3))
    def begin(self, first: list[str]) -> None:
        self.send(resume(first, since="log:0"))
        self.answer_all()

    @precondition(lambda self: self.is_free)
    @rule(topic=topics)
    def subscribe(self, topic: str) -> None:
        self.send(subscribe(topic))

    @precondition(lambda self: self.is_free)
    @rule(topic=topics, last=st.integers(0, 3))
    def subscribe_to_the_last(self, topic: str, last: int) -> None:
        self.send(subscribe(topic, last=last))

    @precondition(lambda self: self.is_free)
    @rule(asked=st.lists(topics, min_size=1, max_size=3), back=st.integers(0, 3))
    def resume(self, asked: list[str], back: int) -> None:
        self.send(resume(asked, since=f"log:{max(0, self.published - back)}"))

    @precondition(lambda self: self.is_free)
    @rule(topic=topics)
    def unsubscribe(self, topic: str) -> None:
        self.send(unsubscribe(topic))

    @precondition(lambda self: self.is_free)
    @rule(topic=topics)
    def publish_as_client(self, topic: str) -> None:
        self.send(publish(topic, "mine"))

    @precondition(lambda self: self.is_free)
    @rule()
    def send_token(self) -> None:
        self.send('{"type": "authenticate", "token": "of the user"}')

    @rule(topic=topics)
    def publish(self, topic: str) -> None:
        before = set(self.standing)
        self.published = number = len(self.world.broker.taken) + 1
        self.publisher.send(publish(topic, number))
        self.note_events()
        self.due |= {
            (number, topic, context)
            for context in contexts(topic)
            if context in before & self.standing and self.may_have(topic, context)
        }
        self.turns()

    # All is drawn before a rule begins: Hypothesis may stop an example while it draws.

    @rule(rights=rights(), all_topics=st.booleans())
    def change_rights(self, rights: dict[str, Right], all_topics: bool) -> None:
        """Change the rights of the user that was looked up last, and recheck."""
        changed = [topic for topic in TOPICS if rights[topic] != self.rights[topic]]
        self.rights.update(rights)
        self.note(self.client.session.recheck(None if all_topics else changed))

    @rule(rights=rights())
    def change_user(self, rights: dict[str, Right]) -> None:
        """Change the rights together with the user, and have the client looked up again."""
        self.rights = dict(rights)
        self.versions.append(self.rights)
        user = User(len(self.versions) - 1)
        found = self._answer(replace(self.client.session.identity, user=user))
        self.note(self.client.session.verify(lambda: found))

    def note(self, pending: Awaitable[None] | None) -> None:
        recheck = self.start(pending)
        if recheck is not None:
            self.rechecks.append(recheck)
        self.turns()

    @precondition(lambda self: self.answers)
    @rule(index=st.integers(0, 20), fails=st.sampled_from([False] * 9 + [True]))
    def answer(self, index: int, fails: bool) -> None:
        waiting, answer = self.answers.pop(index % len(self.answers))
        if not waiting.done():
            if fails and not isinstance(answer, Identity | Authentication):
                waiting.set_exception(Unavailable("a policy that fails"))
            else:
                waiting.set_result(answer)
        self.turns()

    @rule()
    def answer_all(self) -> None:
        """Answer everything, in order."""
        rounds = 0
        while self.answers or self.pauses:
            rounds += 1
            assert rounds < 1000
            answers, self.answers = self.answers, []
            for waiting, answer in answers:
                if not waiting.done():
                    waiting.set_result(answer)
            self.turns()
            if not self.answers:
                self.tick()
            self.it_gets_and_publishes_only_what_it_may()

    @precondition(lambda self: self.pauses)
    @rule()
    def tick(self) -> None:
        pauses, self.pauses = self.pauses, []
        for waiting in pauses:
            waiting.set_result(None)
        self.turns()

    # What must hold.

    def may_have(self, topic: str, context: str) -> bool:
        right = self.rights[context]
        below = [each for each in right.denied if each.startswith(context + ".")]
        return right.allowed and not any(each in below for each in contexts(topic))

    def note_events(self) -> None:
        events, self.seen = self.world.observer.told[self.seen :], len(self.world.observer.told)
        for event in events:
            if event[:2] == ("subscribed", "one"):
                self.standing.add(event[2])
            elif event[:2] == ("unsubscribed", "one"):
                self.standing.discard(event[2])

    @invariant()
    def it_gets_and_publishes_only_what_it_may(self) -> None:
        self.note_events()
        got = set()
        for told in self.transport.take_whole():
            if told["type"] == "publish":
                assert self.may_have(told["topic"], told["context"]), told
                got.add((told["message"], told["topic"], told["context"]))
        # Whatever it may not have for a time it need not get, though it may have it again.
        self.due = {
            (number, topic, context)
            for number, topic, context in self.due - got
            if context in self.standing and self.may_have(topic, context)
        }
        taken, self.taken = self.world.broker.taken[self.taken :], len(self.world.broker.taken)
        for publication in taken:
            if publication.publisher == "one":
                assert self.rights[publication.topic].allowed, publication

    def teardown(self) -> None:
        try:
            self.answer_all()
            assert self.is_free
            assert all(each.done() for each in self.rechecks)
            assert self.transport.code is None
            assert self.client.session.identity.user.version == len(self.versions) - 1
            assert self.due == set()
            for context in self.standing:
                assert self.rights[context].allowed
            for topic in TOPICS:
                self.publisher.send(publish(topic, "last"))
                got = [told["context"] for told in self.transport.take()]
                assert got == [
                    context
                    for context in contexts(topic)
                    if context in self.standing and self.may_have(topic, context)
                ]
        finally:
            self.loop.close()
            asyncio.set_event_loop(None)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
