"""Recovery: a client subscribes from where it was, and waits for the policy, for the log, and for room in its buffer."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from dwsps_channels.core.endpoint import Endpoint
from dwsps_channels.core.grants import CheckGrant
from dwsps_channels.core.identity import Identity
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.node import Node
from dwsps_channels.core.observer import Observer
from dwsps_channels.core.pacing import (
    FIRST_PAUSE,
    MAX_PAUSES,
    Backlog,
    Pause,
    Window,
    has_room,
)
from dwsps_channels.core.policy import (
    ANSWERS,
    NONE_DENIED,
    Answer,
    DeniedTopics,
    Policy,
    answer_of,
    denied_below,
    is_allowed,
    reason_of,
)
from dwsps_channels.core.replay import NO_REPLAY, Replay
from dwsps_channels.core.subscription import SubscriptionQuota
from dwsps_channels.core.transport import Transport
from dwsps_channels.protocol.errors import Forbidden, Unavailable, WireError
from dwsps_channels.protocol.messages import Resume, Resumed, Subscribe, TopicError
from dwsps_channels.protocol.topics import check

# The questions about the topics of one resume that a policy may be deciding at once.
MAX_QUESTIONS: Final = 32

# What is published while a replay is sent is sent after it, and so on: so often, until the rest fits.
MAX_ROUNDS: Final = 16

Ask = Callable[[str], Answer | Awaitable[Answer]]
Decisions = dict[str, Answer | Exception]
"""By topic the policy's answer, or what it raised."""

Gather = Callable[..., Awaitable[list[Any]]]
"""Awaits its arguments at once, and returns their results in order, as ``asyncio.gather`` does."""


async def one_by_one(*awaitables: Awaitable[Any]) -> list[Any]:
    """Await one after the other: the ``Gather`` of those who need no speed."""
    return [await each for each in awaitables]


def ask_each(ask: Ask, topics: Iterable[str], gather: Gather) -> Decisions | Awaitable[Decisions]:
    """Ask about each topic; await the decisions, if they do not come at once."""
    decisions: Decisions = {}
    rest = iter(topics)
    for topic in rest:
        answer = _ask(ask, topic)
        if not isinstance(answer, (*ANSWERS, Exception)):
            return _ask_on(ask, decisions, (topic, answer), rest, gather)
        decisions[topic] = answer
    return decisions


async def _ask_on(
    ask: Ask,
    decisions: Decisions,
    first: tuple[str, Awaitable[Answer]],
    rest: Iterator[str],
    gather: Gather,
) -> Decisions:
    def ask_some(count: int) -> list[tuple[str, Any]]:
        return [(topic, _ask(ask, topic)) for topic in islice(rest, count)]

    asked = [first, *ask_some(MAX_QUESTIONS - 1)]
    while asked:
        results = await gather(*(_settle(answer) for _, answer in asked))
        decisions.update(zip((topic for topic, _ in asked), results, strict=True))
        asked = ask_some(MAX_QUESTIONS)
    return decisions


def _ask(ask: Ask, topic: str) -> Any:
    try:
        return ask(topic)
    except Exception as error:
        return error


async def _settle(answer: Any) -> Answer | Exception:
    if isinstance(answer, (*ANSWERS, Exception)):
        return answer
    try:
        return answer_of(await answer)
    except Exception as error:
        return error


def _allowed(decisions: Decisions) -> dict[str, Answer]:
    """Return the topics that are allowed, with the answers."""
    return {
        topic: decision
        for topic, decision in decisions.items()
        if not isinstance(decision, Exception) and is_allowed(decision)
    }


def _denied(decisions: Decisions) -> dict[str, DeniedTopics]:
    """Return what is denied below those topics that are allowed but for that."""
    return {
        topic: denied
        for topic, answer in _allowed(decisions).items()
        if (denied := denied_below(topic, answer))
    }


async def wait_for_log(is_behind: Callable[[], bool], pause: Pause) -> None:
    """Wait until this process is not behind the client's cursor any more, or has been for too long."""
    for number in range(MAX_PAUSES):
        if not is_behind():
            return
        await pause(FIRST_PAUSE * 2**number)


class RecoveringEndpoint(Endpoint):
    """The part of a session that lets a client have what it missed (docs/reference/protocol.md, "Recovery")."""

    __slots__ = ("_check_grant", "_gather", "_pause", "_policy")

    def __init__(
        self,
        node: Node,
        transport: Transport,
        identity: Identity,
        policy: Policy,
        limits: Limits,
        observers: Sequence[Observer],
        clock: Callable[[], float],
        gather: Gather,
        pause: Pause,
        check_grant: CheckGrant,
    ) -> None:
        super().__init__(node, transport, identity, limits, observers, clock)
        self._policy = policy
        self._check_grant = check_grant
        self._gather = gather
        self._pause = pause

    def _may_subscribe(self, topic: str, grant: str | UnsetType) -> Answer | Awaitable[Answer]:
        """Ask the policy; if the client brings a grant, ask about that."""
        if grant is UNSET:
            return self._policy.may_subscribe(self.identity, topic)
        return self._check_grant(self.identity, topic, grant)

    def _subscribe(self, topic: str, answer: Answer, grant: str | UnsetType = UNSET) -> None:
        is_new = self._hub.subscribe(self._subscriber, topic, denied_below(topic, answer))
        self._subscriber.subscriptions[topic].grant = grant or ""
        if is_new:
            for observer in self._observers:
                observer.subscribed(self.identity, topic)

    def _subscribe_with_replay(self, request: Subscribe, answer: Answer) -> Awaitable[None] | None:
        """Subscribe to a topic that is allowed, from a cursor on or with the last messages, and reply."""
        return self._recover(request, {request.topic: answer})

    def _resume(self, request: Resume) -> Awaitable[None] | None:
        """Ask the policy about each topic of a resume, then let it take effect, and reply."""
        quota = SubscriptionQuota(self._subscriber, self._limits)

        def ask(topic: str) -> Answer | Awaitable[Answer]:
            if self._closing:
                # Otherwise a client could leave a thousand questions behind, and come again.
                raise Unavailable("the connection is closing")
            check(topic)
            quota.admit(topic)
            return self._may_subscribe(topic, grants.get(topic, UNSET))

        grants = request.grants or {}
        decisions = ask_each(ask, dict.fromkeys(request.topics), self._gather)
        if isinstance(decisions, dict):
            return self._resume_allowed(request, decisions)
        return self._continue(request, decisions, partial(self._resume_allowed, request))

    def _resume_allowed(self, request: Resume, decisions: Decisions) -> Awaitable[None] | None:
        # A policy that fails often fails for all topics: the log tells of the first.
        failure: WireError | None = None
        for topic, decision in decisions.items():
            if isinstance(decision, Exception) and not isinstance(decision, WireError):
                failure = failure or self._wire_error(decision)
                decisions[topic] = failure
        return self._recover(request, decisions)

    def _recover(self, request: Any, decisions: Decisions) -> Awaitable[None] | None:
        """Send what is asked for, subscribe to the topics that are allowed, and reply: one step, without an await.

        It waits for this process to have read what the client has had, and for the client's buffer to have room.
        """
        if request.since is not UNSET and self._node.is_behind(request.since):
            read = wait_for_log(partial(self._node.is_behind, request.since), self._pause)
            return self._continue(request, read, lambda _: self._send_replay(request, decisions))
        return self._send_replay(request, decisions)

    def _take(self, request: Any, decisions: Decisions) -> Replay:
        """Return what a request asks for, as far as it is allowed."""
        denied = _denied(decisions)
        if isinstance(request, Subscribe) and request.since is UNSET:
            assert request.last is not UNSET
            return self._node.replay_last(
                request.topic, request.last, denied.get(request.topic, NONE_DENIED)
            )
        return self._node.replay(tuple(_allowed(decisions)), request.since, denied)

    def _send_replay(self, request: Any, decisions: Decisions) -> Awaitable[None] | None:
        replay = self._take(request, decisions)
        if not replay.unencoded and has_room(
            self._transport.buffered_bytes, self._limits.buffered_bytes, replay.size
        ):
            return self._replay(request, decisions, replay)
        end = self._send_but_the_end(request, decisions)
        return self._continue(request, end, partial(self._replay, request, decisions))

    async def _send_but_the_end(self, request: Any, decisions: Decisions) -> Replay | None:
        """Send a replay, and what is published meanwhile. Return the end of it: send that before the next ``await``.

        Return ``None`` if nothing was sent, because the client does not read. A recovery is never partial: if something
        was sent, and the rest cannot be, close the connection and raise ``Unavailable``.
        """
        node = self._node
        window = Window(self._transport, self._limits.buffered_bytes, self._pause)
        # Taken here, in one step with the cursor below: a coroutine may begin later than it is made.
        replay = self._take(request, decisions)
        recovered = replay.recovered
        topics = frozenset((request.topic,)) if request.since is UNSET else recovered
        for _ in range(MAX_ROUNDS):
            epoch, cursor = node.epoch, node.cursor
            if not await self._send_in_bursts(window, replay):
                if node.epoch == epoch:
                    return None
                return await self._send_but_the_end(request, decisions)
            since = node.replay(tuple(topics), cursor, _denied(decisions))
            if since.recovered != topics:
                raise self._give_up("what it missed was lost while it was sent the first part")
            replay = replace(since, recovered=recovered)
            if not replay.unencoded and window.has_room(replay.size):
                return replay
        raise self._give_up("more is published than it reads")

    async def _send_in_bursts(self, window: Window, replay: Replay) -> bool:
        """Send all of a replay; ``False``: nothing, because the client does not read, or the replay is stale."""
        node, epoch = self._node, self._node.epoch
        backlog = Backlog(node.encode(replay))
        while not window.send(backlog):
            is_worth_it = await window.wait()
            if self._closing:
                raise Unavailable("the connection is closing")
            if node.epoch != epoch or not is_worth_it:
                if not window.is_used:
                    return False
                raise self._give_up("it has not read what it missed")
        return True

    def _give_up(self, problem: str) -> Unavailable:
        """Close the connection of a client that is too slow for a replay; return what to raise."""
        self._close_as_slow(problem)
        return Unavailable("the connection is closing")

    def _replay(
        self, request: Any, decisions: Decisions, replay: Replay | None
    ) -> Awaitable[None] | None:
        """Do the step that ``_recover`` is about; without a replay the client reads too slowly for one."""
        if self._closing:
            raise Unavailable("the connection is closing")
        if replay is None:
            if isinstance(request, Subscribe) and request.last is not UNSET:
                raise Unavailable("the client is too far behind for a replay")
            replay = NO_REPLAY
        self._transport.send_all(replay.frames)
        if isinstance(request, Resume):
            grants = request.grants or {}
            for topic, answer in _allowed(decisions).items():
                self._subscribe(topic, answer, grants.get(topic, UNSET))
            topics = {
                topic: self._resumed(topic, decision, replay)
                for topic, decision in decisions.items()
            }
            return self._reply(partial(self._ack, request, topics=topics))
        [answer] = _allowed(decisions).values()
        self._subscribe(request.topic, answer, request.grant)
        if request.since is UNSET:
            return self._reply(partial(self._ack, request))
        return self._reply(partial(self._ack, request, recovered=request.topic in replay.recovered))

    def _resumed(self, topic: str, decision: Answer | Exception, replay: Replay) -> Resumed:
        """Return the outcome of one topic of a resume."""
        if is_allowed(decision):
            return Resumed(recovered=topic in replay.recovered)
        error = self._forbidden(topic, decision)
        return Resumed(error=TopicError(error.code, error.reason, error.retryable))

    def _forbidden(self, topic: str, decision: Answer | Exception) -> WireError:
        """Return the error for a client that may not subscribe."""
        if isinstance(decision, Exception):
            return self._wire_error(decision)
        return Forbidden(f"subscribe to '{topic}'", reason_of(decision))
