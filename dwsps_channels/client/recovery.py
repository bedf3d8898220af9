"""Recovery, after a reconnect, of the subscriptions that stood before it."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from dwsps_channels.client.calls import Call
from dwsps_channels.client.errors import CallError, CallTimeout, ServerError
from dwsps_channels.client.exchange import Exchange
from dwsps_channels.client.grant import GRANT_OVERHEAD, Grant, grant_payload
from dwsps_channels.client.messages import Incoming, to_json
from dwsps_channels.client.position import Cursor, Position
from dwsps_channels.client.subscription import LIVE, Start
from dwsps_channels.client.topic import Topic
from dwsps_channels.protocol.errors import RateLimited, Unavailable

logger = logging.getLogger("dwsps_channels.client")

# Bytes of the topics in one resume: half of what a server takes by default. Each has quotes and a comma around it.
MAX_RESUME: Final = 32_000
TOPIC_OVERHEAD: Final = 3


class Owner(Protocol):
    """The keeper of the topics, and of the connection."""

    def send(self, call: Call, payload: bytes) -> None:
        """Send a request."""

    def send_more(self) -> None:
        """Call ``send_next`` when the server takes more."""

    def is_wanted(self, topic: Topic) -> bool:
        """Return whether the topic has readers still."""

    def recovered(self, topic: Topic, is_complete: bool) -> None:
        """Note that a subscription stands again; if it is not complete, messages are missing."""

    def not_recovered(self, topic: Topic, error: CallError) -> None:
        """Note that the server refuses a subscription for good."""

    def forget_log(self) -> None:
        """Note that the server has no log."""


class Recovery:
    """Asks the server for subscriptions again: first, and at once, for all that the client's cursor holds for.

    The cursor is held until all of those are answered.
    """

    def __init__(
        self, owner: Owner, position: Position, jitter: Callable[[int], float], timeout: float
    ) -> None:
        """Take the client's parts, and the seconds that a grant function may take."""
        self._owner = owner
        self._timeout = timeout
        self._position = position
        self._jitter = jitter
        self._exchange: Exchange | None = None  # where there is a connection
        self._unsent: dict[Topic, None] = {}  # to be asked for, in this order
        self._pending: dict[Topic, None] = {}  # those that do not stand yet, in the same order
        self._getting_grant: set[Topic] = (
            set()
        )  # of these the ones whose grant function has not answered
        self._resuming: set[Topic] = set()  # of these the ones for which the cursor is held
        self._one_by_one = False  # the server does not know a resume, or did not answer one
        self._refusals = 0  # how often the server put off any of them, on this connection
        self._asking_again: asyncio.TimerHandle | None = None

    def __contains__(self, topic: Topic) -> bool:
        """Return whether the topic's subscription is still to be recovered."""
        return topic in self._pending

    def begin(self, topics: Iterable[Topic], exchange: Exchange) -> None:
        """Recover these, on a new connection, with ``send_next``."""
        self._exchange = exchange
        self._refusals = 0
        self._pending = dict.fromkeys(topics)
        self._resuming = {topic for topic in self._pending if topic.covered}
        if self._resuming:
            self._position.hold()
        self._ask_soon(self._pending)

    def end(self) -> None:
        """Note that the connection is gone."""
        self._exchange = None
        self._unsent.clear()
        self._pending.clear()
        self._getting_grant.clear()
        self._resuming.clear()
        if self._asking_again is not None:
            self._asking_again.cancel()
            self._asking_again = None

    def settle(self, topic: Topic) -> None:
        """Note that the topic's subscription stands or is gone."""
        self._unsent.pop(topic, None)
        self._pending.pop(topic, None)
        self._getting_grant.discard(topic)
        if topic in self._resuming:
            self._resuming.discard(topic)
            if not self._resuming:
                self._one_by_one = False
                self._position.release()

    def give_up_cursor(self) -> None:
        """Note that the server has no log: all are to be asked for as new ones."""
        self._position.release()
        self._resuming.clear()

    @property
    def has_unsent(self) -> bool:
        """Return whether ``send_next`` has something to send."""
        return bool(self._unsent)

    def send_next(self) -> None:
        """Send the next request."""
        cursor = self._position.cursor
        resuming = self._resuming
        covered = [each for each in self._unsent if each in resuming] if resuming else []
        if not covered or cursor is None:
            self._subscribe(next(iter(self._unsent)), LIVE)
        elif self._one_by_one:
            self._subscribe(covered[0], Start(since=str(cursor)))
        else:
            self._resume(covered, cursor)

    def _ask_soon(self, topics: Iterable[Topic]) -> None:
        """Ask for these: at once, or when their grant functions have answered, for all of those together."""
        exchange = self._exchange
        assert exchange is not None
        missing: dict[Topic, Grant] = {}
        for topic in topics:
            if topic.grant is None or topic.grant.is_ready(exchange):
                self._unsent[topic] = None
            else:
                missing[topic] = topic.grant
        if missing:
            self._getting_grant.update(missing)
            exchange.run(self._get_grants(missing, exchange))

    async def _get_grants(self, grants: dict[Topic, Grant], exchange: Exchange) -> None:
        asking = (grant.ask(exchange, self._timeout) for grant in grants.values())
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        for topic, outcome in zip(grants, outcomes, strict=True):
            if topic not in self._getting_grant:
                continue  # it is not wanted any more
            self._getting_grant.discard(topic)
            if outcome is None:
                self._unsent[topic] = None
            else:
                logger.warning("a subscription has to wait: %s", outcome)
                self._ask_later()
        self._owner.send_more()

    def _subscribe(self, topic: Topic, start: Start) -> None:
        payload = grant_payload(topic.grant)
        self._mark_asked(topic)

        def done(ack: Incoming) -> None:
            self._recovered(topic, ack.recovered is True)

        def refused(error: CallError) -> None:
            if error.code == RateLimited.code:
                self._ask_again([topic])
            else:
                self._refused(topic, error)

        call = Call("subscribe", topic.name, done, refused, lost=_ignore)
        self._owner.send(call, start.payload() + payload)

    def _resume(self, covered: list[Topic], since: Cursor) -> None:
        topics: dict[str, Topic] = {}
        grants: dict[str, str] = {}
        size = 0
        for topic in covered:
            name, grant = topic.name, topic.grant.text if topic.grant else ""
            length = len(name.encode())
            size += length + TOPIC_OVERHEAD
            if grant:
                size += length + len(grant.encode()) + GRANT_OVERHEAD
            if topics and size > MAX_RESUME:
                break
            topics[name] = topic
            if grant:
                grants[name] = grant
        for topic in topics.values():
            self._mark_asked(topic)

        def done(ack: Incoming) -> None:
            answers: dict[str, Any] = ack.topics if isinstance(ack.topics, dict) else {}
            for name, topic in topics.items():
                answer = answers.get(name)
                answer = answer if isinstance(answer, dict) else {}
                if isinstance(error := answer.get("error"), dict):
                    self._refused(topic, _topic_error(name, error))
                elif "recovered" in answer:
                    self._recovered(topic, answer["recovered"] is True)
                else:
                    reason = "the server's answer leaves out the topic"
                    self._refused(
                        topic, ServerError("resume", name, Unavailable.code, reason, retryable=True)
                    )

        def refused(error: CallError) -> None:
            if error.code == RateLimited.code:
                self._ask_again(topics.values())
            elif error.retryable and not isinstance(error, CallTimeout):
                for topic in topics.values():
                    self._refused(topic, error)
            else:
                if isinstance(error, CallTimeout):
                    self._one_by_one = True
                else:  # it does not know what a resume is
                    self._owner.forget_log()
                self._ask_again(topics.values())

        exchange = self._exchange

        def lost(reason: str) -> None:
            # dwsps 1.0.1 does not answer what it does not know.
            self._one_by_one = self._one_by_one or (exchange is not None and exchange.was_silent)

        payload = b',"since":%s,"topics":%s' % (to_json(str(since)), to_json(list(topics)))
        if grants:
            payload += b',"grants":%s' % to_json(grants)
        self._owner.send(Call("resume", "", done, refused, lost), payload)

    def _mark_asked(self, topic: Topic) -> None:
        del self._unsent[topic]
        if topic.grant is not None:
            topic.grant.sent()
        topic.asked += 1
        topic.replaying = True

    def _mark_answered(self, topic: Topic) -> bool:
        """Return whether the topic is wanted still."""
        topic.asked -= 1
        topic.replaying = False
        return self._owner.is_wanted(topic)

    def _ask_again(self, topics: Iterable[Topic]) -> None:
        wanted = [topic for topic in topics if self._mark_answered(topic)]
        if wanted:  # none is, if the client was closed
            self._ask_soon(wanted)

    def _recovered(self, topic: Topic, is_complete: bool) -> None:
        if self._mark_answered(topic):
            self._owner.recovered(topic, is_complete)

    def _refused(self, topic: Topic, error: CallError) -> None:
        if not self._mark_answered(topic):
            return
        if error.retryable:
            logger.warning("the server postponed a subscription: %s", error)
            self._ask_later()
        else:
            logger.error("a subscription could not be restored: %s", error)
            self._owner.not_recovered(topic, error)

    def _ask_later(self) -> None:
        if self._asking_again is None and self._exchange is not None:
            delay = self._jitter(self._refusals)
            self._refusals += 1
            loop = asyncio.get_running_loop()
            self._asking_again = loop.call_later(delay, self._ask_postponed)

    def _ask_postponed(self) -> None:
        self._asking_again = None
        not_asked = (topic for topic in self._pending if not topic.asked)
        self._ask_soon(topic for topic in not_asked if topic not in self._getting_grant)
        self._owner.send_more()


def _topic_error(topic: str, error: dict[str, Any]) -> ServerError:
    code, reason = (
        value if isinstance(value := error.get(name), str) else "" for name in ("code", "reason")
    )
    retryable = error.get("retryable") is True
    return ServerError("subscribe", topic, code, reason, retryable=retryable)


def _ignore(*_: object) -> None:
    pass
