"""Decisions that are taken again while a connection stands."""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from dwsps_channels.core.identity import Identity
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.policy import Decision
from dwsps_channels.core.recovery import MAX_ANSWERS, MAX_QUESTIONS
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Unauthorized, Unavailable
from tests.core.recording import (
    STAMP,
    Client,
    RecordingPolicy,
    World,
    delivery,
    future,
    is_error,
    publish,
    resume,
    subscribe,
    turn,
    unsubscribe,
)
from tests.processes import wait_until_async


@dataclass
class User:
    pk: int
    is_authenticated: bool = True


class Rules:
    """Allows what is in ``allowed``, at once or later."""

    def __init__(self, *allowed: str, later: bool = False) -> None:
        self.allowed = set(allowed)
        self.later = later
        self.asked: list[tuple[Any, str]] = []

    def may_subscribe(self, identity: Identity, topic: str) -> Any:
        self.asked.append((identity.user, topic))
        return self._answer(topic) if self.later else topic in self.allowed

    async def _answer(self, topic: str) -> bool:
        return topic in self.allowed

    def may_publish(self, identity: Identity, topic: str) -> Any:
        return True


def unsubscribed(topic: str, code: str = "forbidden") -> dict[str, str]:
    reason = f"not allowed to subscribe to '{topic}'"
    return {"type": "unsubscribed", "topic": topic, "code": code, "reason": reason}


async def settle(pending: Awaitable[None] | None) -> None:
    if pending is not None:
        await pending


async def test_a_subscription_that_is_not_allowed_any_more_ends(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rules = Rules("news", "sport")
    client, publisher = world.connect(policy=rules), world.connect("publisher")
    client.send(subscribe("news"))
    client.send(subscribe("sport"))
    rules.allowed.remove("news")

    assert client.session.recheck(None) is None

    assert client.transport.take() == [unsubscribed("news")]
    assert caplog.messages == ["client one unsubscribed: not allowed to subscribe to 'news'"]
    publisher.send(publish("news", timestamp=STAMP))
    publisher.send(publish("sport", timestamp=STAMP))
    assert client.transport.take() == [delivery("sport", "sport")]
    assert ("unsubscribed", "one", "news") in world.observer.told


@pytest.mark.parametrize("frame", [subscribe("news"), subscribe("news", last=0)])
async def test_a_subscription_ends_after_its_ack_though_that_waits_for_a_publish(
    logged: World, frame: str
) -> None:
    """A client that got the ack last would take the subscription for one that stands."""
    rules = Rules("news")
    client = logged.connect(policy=rules)
    logged.broker.answer = accepted = future()
    assert client.send(publish("sport")) == []
    assert client.send(frame) == []
    rules.allowed.remove("news")

    assert client.session.recheck(None) is None
    logged.broker.answer = None
    logged.connect("publisher").send(publish("news"))
    assert client.transport.take() == []

    accepted.set_result(1)
    await turn()
    assert [told["type"] for told in client.transport.take()] == ["ack", "ack", "unsubscribed"]


async def test_only_subscriptions_at_above_and_below_the_topics_are_asked_about(
    world: World,
) -> None:
    topics = ["news", "news.uk", "news.uk.london", "news.us", "newsroom", "sport"]
    rules = Rules(*topics)
    client = world.connect(policy=rules)
    for topic in topics:
        client.send(subscribe(topic))
    rules.asked.clear()

    client.session.recheck(["news.uk", "weather"])

    assert [topic for _, topic in rules.asked] == ["news", "news.uk", "news.uk.london"]


async def test_the_reason_of_a_decision_is_told(world: World) -> None:
    answers: list[Any] = [True]

    class Policy(Rules):
        def may_subscribe(self, identity: Identity, topic: str) -> Any:
            return answers[-1]

    client = world.connect(policy=Policy())
    client.send(subscribe("news"))
    answers.append(Decision(False, "it is closed"))
    client.session.recheck(None)
    (told,) = client.transport.take()
    assert told["reason"] == "not allowed to subscribe to 'news': it is closed"


class LaterRules:
    """Answers when the test says so: ``questions`` has the futures, in the order of the questions."""

    def __init__(self) -> None:
        self.questions: list[tuple[str, asyncio.Future[Any]]] = []
        self.users: list[Any] = []

    def _ask(self, identity: Identity, topic: str) -> Any:
        self.questions.append((topic, future()))
        self.users.append(identity.user)
        return self.questions[-1][1]

    may_subscribe = may_publish = _ask

    def answer(self, *answers: Any) -> None:
        """Answer the oldest questions that have no answer yet."""
        for answer in answers:
            waiting = next(each for _, each in self.questions if not each.done())
            if isinstance(answer, Exception):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)

    async def subscribe(self, client: Client, *topics: str) -> None:
        for topic in topics:
            pending = client.start(subscribe(topic))
            self.answer(True)
            await pending
        client.transport.take()


def start(pending: Awaitable[None] | None) -> "asyncio.Future[None]":
    assert pending is not None
    return asyncio.ensure_future(pending)


def said(client: Client) -> list[str]:
    """Take what came to the client: the messages of deliveries, and the types of the rest."""
    return [
        one["message"] if one["type"] == "publish" else one["type"]
        for one in client.transport.take()
    ]


class TestHeldBack:
    """Until the answers are there the client gets nothing; then all of it, but what it may not have."""

    @pytest.fixture
    def rules(self) -> LaterRules:
        return LaterRules()

    @pytest.fixture
    def publisher(self, world: World) -> Client:
        return world.connect("publisher")

    async def test_after_a_yes_all_comes_in_order(
        self, world: World, rules: LaterRules, publisher: Client
    ) -> None:
        client = world.connect(policy=rules)
        await rules.subscribe(client, "news", "sport")
        rechecked = start(client.session.recheck(["news"]))
        publisher.send(publish("news.uk", "1"))
        publisher.send(publish("sport", "2"))
        client.session.receive(unsubscribe("weather"))
        publisher.send(publish("news", "3"))
        await turn()
        assert client.transport.take() == []

        rules.answer(True)
        await rechecked

        assert said(client) == ["1", "2", "ack", "3"]
        publisher.send(publish("news", "4"))
        assert said(client) == ["4"]

    @pytest.mark.parametrize(
        ("answer", "code"),
        [(False, "forbidden"), (Decision(False), "forbidden"), (KeyError("x"), "unavailable")],
        ids=repr,
    )
    async def test_after_a_no_or_an_error_only_the_rest_comes(
        self, world: World, rules: LaterRules, publisher: Client, answer: Any, code: str
    ) -> None:
        client = world.connect(policy=rules)
        await rules.subscribe(client, "news", "sport")
        rechecked = start(client.session.recheck(["news"]))
        publisher.send(publish("news.uk", "1"))
        publisher.send(publish("sport", "2", timestamp=STAMP))

        rules.answer(answer)
        await rechecked

        first, second = client.transport.take()
        assert first == delivery("sport", "sport", "2")
        assert (second["type"], second["topic"], second["code"]) == ("unsubscribed", "news", code)
        publisher.send(publish("news", "3"))
        assert said(client) == []

    async def test_sub_topics_that_are_denied_now_are_left_out(
        self, world: World, rules: LaterRules, publisher: Client
    ) -> None:
        client = world.connect(policy=rules)
        await rules.subscribe(client, "news")
        for denied, expected in [
            ("news.staff", ["news", "news.us"]),
            ("news.us", ["news", "news.staff.a"]),
        ]:
            rechecked = start(client.session.recheck(None))
            for _ in range(2):
                for topic in ("news", "news.staff.a", "news.us"):
                    publisher.send(publish(topic, topic))
                if not rechecked.done():
                    rules.answer(Decision(True, denied=(denied,)))
                    await rechecked
                assert said(client) == expected

    async def test_half_a_character_in_a_message_hides_no_topic(
        self, world: World, rules: LaterRules, publisher: Client
    ) -> None:
        client = world.connect(policy=rules)
        await rules.subscribe(client, "news")
        rechecked = start(client.session.recheck(None))
        for topic in ("news", "news.staff"):
            publisher.session.receive(f'{{"type":"publish","topic":"{topic}","message":"\\ud83d"}}')
        rules.answer(Decision(True, denied=("news.staff",)))
        await rechecked
        assert said(client) == ["\ud83d"]

    async def test_all_answers_are_waited_for(
        self, world: World, rules: LaterRules, publisher: Client
    ) -> None:
        client = world.connect(policy=rules)
        await rules.subscribe(client, "news", "sport")
        rechecks = [start(client.session.recheck([topic])) for topic in ("news", "sport")]
        publisher.send(publish("news", "1"))
        await turn()
        rules.answer(True)
        await rechecks[0]
        assert said(client) == []
        rules.answer(False)
        await rechecks[1]
        assert said(client) == ["1", "unsubscribed"]

    @pytest.mark.parametrize("newest_first", [True, False])
    @pytest.mark.parametrize("answers", [(True, False), (False, True)])
    async def test_the_newest_recheck_counts(
        self,
        world: World,
        rules: LaterRules,
        publisher: Client,
        answers: tuple[bool, bool],
        newest_first: bool,
    ) -> None:
        client = world.connect(policy=rules)
        await rules.subscribe(client, "news")
        rechecks = [start(client.session.recheck(None)) for _ in range(2)]
        publisher.send(publish("news", "1"))
        await turn()
        questions = list(zip(rules.questions[-2:], answers, strict=True))
        for (_, waiting), answer in reversed(questions) if newest_first else questions:
            waiting.set_result(answer)
            await turn()
        await asyncio.gather(*rechecks)
        assert said(client) == (["1"] if answers[1] else ["unsubscribed"])

    @pytest.mark.parametrize("end", ["another recheck", "close"])
    async def test_what_makes_no_difference_any_more_is_not_asked(
        self, world: World, rules: LaterRules, end: str
    ) -> None:
        client = world.connect(policy=rules)
        await rules.subscribe(client, *(f"news.{number}" for number in range(100)))
        rules.questions.clear()
        rechecks = [start(client.session.recheck(None))]
        await turn()
        assert len(rules.questions) == MAX_QUESTIONS
        if end == "close":
            client.session.close(CloseCode.GOING_AWAY, Unavailable("going away"))
        else:
            rechecks.append(start(client.session.recheck(None)))
            await turn()
        asked = len(rules.questions)

        rules.answer(*[True] * MAX_QUESTIONS)
        await asyncio.wait_for(rechecks[0], 30)

        assert len(rules.questions) == asked
        client.session.close(CloseCode.GOING_AWAY, Unavailable("going away"))
        rules.answer(*[True] * (asked - MAX_QUESTIONS))
        await asyncio.wait_for(rechecks[-1], 30)

    async def test_a_recheck_that_is_cancelled_is_a_no(
        self, world: World, rules: LaterRules
    ) -> None:
        client = world.connect(policy=rules)
        await rules.subscribe(client, "news")
        rechecked = start(client.session.recheck(None))
        await turn()
        rechecked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await rechecked
        assert said(client) == ["unsubscribed"]
        assert world.is_empty()

    async def test_a_subscription_that_the_client_ends_meanwhile_is_gone(
        self, world: World, rules: LaterRules, publisher: Client
    ) -> None:
        client = world.connect(policy=rules)
        await rules.subscribe(client, "news")
        rechecked = start(client.session.recheck(None))
        publisher.send(publish("news", "1"))
        client.session.receive(unsubscribe("news"))
        await turn()
        rules.answer(False)
        await rechecked
        assert said(client) == ["ack"]
        assert world.is_empty()

    async def test_a_new_subscription_is_held_back_with_the_others(
        self, world: World, rules: LaterRules, publisher: Client
    ) -> None:
        client = world.connect(policy=rules)
        await rules.subscribe(client, "news")
        rechecked = start(client.session.recheck(None))
        publisher.send(publish("news", "1"))
        await turn()
        pending = client.start(subscribe("sport"))
        rules.questions[-1][1].set_result(True)
        await pending
        publisher.send(publish("sport", "2"))
        assert said(client) == []
        rules.answer(True)
        await rechecked
        assert said(client) == ["1", "ack", "2"]
        publisher.send(publish("sport", "3"))
        assert said(client) == ["3"]

    async def test_a_client_that_subscribes_again_has_the_newest_decision(
        self, world: World, rules: LaterRules, publisher: Client
    ) -> None:
        client = world.connect(policy=rules)
        await rules.subscribe(client, "news")
        rechecked = start(client.session.recheck(None))
        await turn()
        pending = client.start(subscribe("news"))
        rules.questions[-1][1].set_result(True)
        await pending
        publisher.send(publish("news", "1"))
        rules.answer(False)
        await rechecked
        assert said(client) == ["ack", "1"]

    async def test_more_than_the_buffer_takes_closes_the_connection(
        self, world: World, rules: LaterRules, publisher: Client
    ) -> None:
        client = world.connect(policy=rules, limits=Limits(buffered_bytes=1000))
        await rules.subscribe(client, "news")
        rechecked = start(client.session.recheck(None))
        for _ in range(100):
            publisher.send(publish("news", "x" * 100))
        assert client.session.buffered_bytes <= 1000
        await turn()
        rules.answer(True)
        await rechecked
        assert client.transport.take() == []
        assert client.transport.code == CloseCode.SLOW_CONSUMER

    async def test_a_close_sends_nothing_of_it_and_the_cursor_is_before_it(
        self, logged: World, rules: LaterRules
    ) -> None:
        client, publisher = logged.connect(policy=rules), logged.connect("publisher")
        await rules.subscribe(client, "news")
        publisher.send(publish("news", "1"))
        assert said(client) == ["1"]
        rechecked = start(client.session.recheck(None))
        publisher.send(publish("news", "2"))
        client.session.close(CloseCode.GOING_AWAY, Unavailable("going away"))
        await turn()
        rules.answer(True)
        await rechecked
        assert said(client) == []
        assert client.transport.final_frame["cursor"] == "log:1"

    async def test_replies_of_a_broker_that_answers_late_keep_their_place(
        self, world: World, rules: LaterRules
    ) -> None:
        client = world.connect(policy=rules)
        await rules.subscribe(client, "news")
        world.broker.answer = future()
        pending = client.start(publish("sport", id=1))
        rules.answer(True)
        await pending
        rechecked = start(client.session.recheck(None))
        world.broker.answer.set_result(7)
        await turn()
        assert said(client) == []
        rules.answer(True)
        await rechecked
        assert said(client) == ["ack"]

    async def test_after_a_close_nothing_is_kept(self, world: World, rules: LaterRules) -> None:
        client = world.connect(policy=rules)
        await rules.subscribe(client, "news")
        world.broker.answer = future()
        pending = client.start(publish("sport", id=1))
        rules.answer(True)
        await pending
        rechecked = start(client.session.recheck(None))
        client.session.receive(unsubscribe("weather"))
        client.session.close(CloseCode.GOING_AWAY, Unavailable("going away"))
        world.broker.answer.set_result(7)
        await turn()
        assert client.session.buffered_bytes == 0
        rules.answer(True)
        await rechecked
        assert said(client) == []


class TestRecoveriesMeanwhile:
    """A replay waits until nothing is held back: its offsets would tell that the client has all before them."""

    async def test_a_replay_comes_after_what_was_held_back(self, logged: World) -> None:
        rules = LaterRules()
        client, publisher = logged.connect(policy=rules), logged.connect("publisher")
        await rules.subscribe(client, "news")
        rechecked = start(client.session.recheck(None))
        publisher.send(publish("news", "1"))
        publisher.send(publish("sport", "2"))
        recovered = start(client.start(subscribe("sport", since="log:0")))
        await turn()
        rules.questions[-1][1].set_result(True)
        await turn()
        publisher.send(publish("news", "3"))
        assert said(client) == []
        rules.answer(True)
        await rechecked
        assert said(client) == ["1", "3"]
        await recovered
        assert said(client) == ["2", "ack"]

    async def test_a_replay_in_parts_that_begins_after_a_recheck_did_comes_whole(
        self, logged: World
    ) -> None:
        answers: list[Any] = [True, True]
        policy = RecordingPolicy(lambda: answers.pop(0) if answers else future())
        client, publisher = (
            logged.connect(policy=policy, limits=Limits(buffered_bytes=1000)),
            logged.connect("publisher"),
        )
        client.send(subscribe("news"))
        messages = [f"{number}{'x' * 100}" for number in range(5)]
        for message in messages:
            publisher.send(publish("sport", message))
        recovery = client.start(subscribe("sport", since="log:0"))
        asked = future()
        answers += [asked, True]

        rechecked = start(client.session.recheck(None))
        recovered = start(recovery)
        await turn()
        assert said(client) == []
        asked.set_result(True)
        await rechecked
        await recovered

        assert said(client) == [*messages, "ack"]

    async def test_it_is_decided_again_if_a_recheck_comes_while_it_waits(
        self, logged: World
    ) -> None:
        rules = LaterRules()
        client, publisher = logged.connect(policy=rules), logged.connect("publisher")
        await rules.subscribe(client, "news")
        rechecks = [start(client.session.recheck(None))]
        publisher.send(publish("sport", "1"))
        recovered = start(client.start(subscribe("sport", since="log:0")))
        await turn()
        rules.questions[-1][1].set_result(True)
        await turn()
        rechecks.append(start(client.session.recheck(None)))
        await turn()
        rules.answer(True, True)
        await asyncio.gather(*rechecks)
        await wait_until_async(lambda: not rules.questions[-1][1].done())
        rules.answer(False)
        await recovered
        assert said(client) == ["error"]

    async def test_one_that_has_to_wait_for_too_long_may_be_asked_for_again(
        self, logged: World
    ) -> None:
        rules = LaterRules()

        async def pause(seconds: float) -> None:
            await asyncio.sleep(0)

        client = logged.connect(policy=rules, pause=pause)
        await rules.subscribe(client, "news")
        rechecked = start(client.session.recheck(None))
        recovered = start(client.start(subscribe("sport", since="log:0")))
        await turn()
        rules.questions[-1][1].set_result(True)
        await recovered
        rules.answer(True)
        await rechecked
        (told,) = client.transport.take()
        assert is_error(told, "unavailable", action="subscribe", topic="sport")


class TestWhatIsBeingDecided:
    """Questions from before a recheck are asked again."""

    @pytest.mark.parametrize(
        "frame", [subscribe("news"), publish("news"), resume(["news"], since="")]
    )
    async def test_the_old_answer_does_not_count(self, world: World, frame: str) -> None:
        rules = LaterRules()
        client = world.connect(policy=rules)
        pending = start(client.start(frame))
        await turn()
        assert client.session.recheck(["sport"]) is None
        rules.answer(True)
        await wait_until_async(lambda: len(rules.questions) == 2)
        rules.answer(False)
        await pending
        assert "forbidden" in str(client.transport.take())
        assert world.is_empty()
        assert world.broker.taken == []

    async def test_what_changes_before_each_answer_is_not_asked_for_ever(
        self, world: World
    ) -> None:
        rules = LaterRules()
        client = world.connect(policy=rules)
        pending = start(client.start(subscribe("news", id=1)))
        for number in range(1, MAX_ANSWERS + 1):
            await turn()
            assert len(rules.questions) == number
            client.session.recheck(["sport"])
            rules.answer(True)
        await asyncio.wait_for(pending, 30)
        (told,) = client.transport.take()
        assert is_error(told, "unavailable", action="subscribe", topic="news", id=1)

    @pytest.mark.parametrize("code", [CloseCode.UNAUTHORIZED, CloseCode.UNVERIFIED])
    @pytest.mark.parametrize(
        "frame", [subscribe("news"), publish("news"), resume(["news"], since="")]
    )
    async def test_of_a_client_that_is_sent_away_nothing_is_done(
        self, world: World, frame: str, code: CloseCode
    ) -> None:
        rules = LaterRules()
        client = world.connect(policy=rules)
        pending = start(client.start(frame))
        await turn()
        client.session.close(code, Unauthorized("logged out"))
        rules.answer(True)
        await asyncio.wait_for(pending, 30)
        assert world.is_empty()
        assert world.broker.taken == []

    async def test_of_one_that_is_looked_up_while_it_is_closed_nothing_is_done(
        self, world: World
    ) -> None:
        rules = LaterRules()
        client = world.connect(policy=rules)
        pending = start(client.start(publish("news")))
        await turn()
        client.session.close(CloseCode.GOING_AWAY, Unavailable("the server ends"))
        looking = start(client.session.verify(future))
        rules.answer(True)
        await asyncio.wait_for(pending, 30)
        assert world.broker.taken == []
        looking.cancel()


class TestVerify:
    """The client is looked up again."""

    async def test_a_client_that_is_nobody_any_more_is_closed(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        client = world.connect(policy=Rules("news"))
        client.send(subscribe("news"))

        async def nobody() -> None:
            return None

        await client.session.verify(nobody)

        assert client.transport.code == CloseCode.UNAUTHORIZED
        assert client.transport.discarded
        assert caplog.messages == ["client one closed: the user is not logged in any more"]
        assert is_error(client.transport.final_frame, "unauthorized")
        assert world.is_empty()

    @pytest.mark.parametrize("error", [Unavailable("no database"), KeyError("x")])
    async def test_a_client_that_cannot_be_looked_up_is_closed(
        self, world: World, error: Exception
    ) -> None:
        client = world.connect(policy=Rules("news"))

        async def fail() -> Identity:
            raise error

        await client.session.verify(fail)

        assert client.transport.code == CloseCode.UNAUTHORIZED

    async def test_a_look_up_that_is_cancelled_closes(self, world: World) -> None:
        client = world.connect()
        looking = start(client.session.verify(future))
        await turn()
        looking.cancel()
        await turn()
        assert client.transport.code == CloseCode.UNAUTHORIZED

    async def test_the_policy_is_asked_with_the_user_that_was_looked_up(self, world: World) -> None:
        rules, before, after = Rules("news"), User(1), User(1)
        client = world.connect(policy=rules, identity=Identity("one", user=before))
        client.send(subscribe("news"))

        async def look_up() -> Identity:
            return replace(client.session.identity, user=after)

        await client.session.verify(look_up)

        assert client.session.identity.user is after
        assert rules.asked[-1][0] is after

    @pytest.mark.parametrize(
        "frame", [subscribe("news"), publish("news"), resume(["news"], since="")]
    )
    async def test_meanwhile_nothing_is_sent_and_nothing_is_decided(
        self, world: World, frame: str
    ) -> None:
        rules, before, after = LaterRules(), User(1), User(1)
        client = world.connect(policy=rules, identity=Identity("one", user=before))
        publisher = world.connect("publisher")
        await rules.subscribe(client, "sport")
        found = future()
        looking = start(client.session.verify(lambda: found))
        publisher.send(publish("sport", "1"))
        pending = start(client.start(frame))
        await turn()
        assert len(rules.questions) == 1
        assert client.transport.take() == []

        found.set_result(replace(client.session.identity, user=after))
        await turn()
        rules.answer(True)
        await looking

        def is_done() -> bool:
            for _, question in rules.questions:
                if not question.done():
                    question.set_result(True)
            return pending.done()

        await wait_until_async(is_done)

        assert all(user is after for user in rules.users[1:])
        assert said(client) == ["1", "ack"]

    @pytest.mark.parametrize("frame", [subscribe("news"), publish("news")])
    async def test_a_look_up_that_takes_too_long_leaves_nothing_to_the_old_user(
        self, world: World, frame: str
    ) -> None:
        async def pause(seconds: float) -> None:
            await asyncio.sleep(0)

        client = world.connect(pause=pause)
        found = future()
        looking = start(client.session.verify(lambda: found))
        await asyncio.wait_for(client.start(frame), 30)
        assert world.is_empty()
        assert world.broker.taken == []
        found.set_result(client.session.identity)
        await looking
        (told,) = client.transport.take()
        assert (told["type"], told["code"]) == ("error", "unavailable")

    async def test_what_is_not_denied_any_more_comes_from_the_beginning_of_the_look_up_on(
        self, world: World
    ) -> None:
        answers: list[Any] = [Decision(True, denied=("news.uk",))]
        client = world.connect(policy=RecordingPolicy(lambda: answers[-1]))
        publisher = world.connect("publisher")
        client.send(subscribe("news"))
        answers.append(Decision(True, denied=("news.us",)))
        found = future()
        looking = start(client.session.verify(lambda: found))
        for topic in ("news", "news.uk", "news.us"):
            publisher.send(publish(topic, topic))
        found.set_result(client.session.identity)
        await looking
        assert said(client) == ["news", "news.uk"]

    async def test_a_recheck_that_ends_meanwhile_releases_nothing(self, world: World) -> None:
        rules = LaterRules()
        client, publisher = world.connect(policy=rules), world.connect("publisher")
        await rules.subscribe(client, "news")
        rechecked = start(client.session.recheck(None))
        found = future()
        looking = start(client.session.verify(lambda: found))
        publisher.send(publish("news", "1"))
        await turn()
        rules.answer(True)
        await rechecked
        assert said(client) == []
        found.set_result(None)
        await looking
        assert said(client) == []
        assert client.transport.code == CloseCode.UNAUTHORIZED

    @pytest.mark.parametrize("newest_first", [True, False])
    async def test_the_newest_look_up_counts(self, world: World, newest_first: bool) -> None:
        users = [User(1), User(1)]
        client = world.connect(identity=Identity("one", user=User(1)))
        found = [future(), future()]
        looking = [
            start(client.session.verify(partial(asyncio.wait_for, each, 30))) for each in found
        ]
        order = [1, 0] if newest_first else [0, 1]
        for index in order:
            found[index].set_result(replace(client.session.identity, user=users[index]))
            await turn()
        await asyncio.gather(*looking)
        assert client.session.identity.user is users[1]
