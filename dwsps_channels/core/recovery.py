"""Recovery: a client subscribes from where it was, and waits for the policy, for the log, and for room in its buffer."""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from dwsps_channels.core.endpoint import Endpoint
from dwsps_channels.core.futures import Gather
from dwsps_channels.core.hold import Hold
from dwsps_channels.core.identity import Identity
from dwsps_channels.core.limits import Limits
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
    answer_of,
    denied_below,
    is_allowed,
    reason_of,
)
from dwsps_channels.core.replay import NO_REPLAY, Replay
from dwsps_channels.core.services import Services
from dwsps_channels.core.subscription import SubscriptionQuota
from dwsps_channels.core.transport import Transport
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Forbidden, Unavailable, WireError
from dwsps_channels.protocol.messages import Resume, Resumed, Subscribe, TopicError
from dwsps_channels.protocol.topics import check

# The questions about the topics of one resume that a policy may be deciding at once.
MAX_QUESTIONS: Final = 32

# So many answers about one request may be too old when they come.
MAX_ANSWERS: Final = 16

# What is published while a replay is sent is sent after it, and so on: so often, until the rest fits.
MAX_ROUNDS: Final = 16

T = TypeVar("T")

Ask = Callable[[str], Answer | Awaitable[Answer]]
Decisions = dict[str, Answer | Exception]
"""By topic the policy's answer, or what it raised."""


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


async def wait_while(condition: Callable[[], bool], pause: Pause) -> None:
    """Wait until ``condition`` is false, or has been true for too long."""
    for number in range(MAX_PAUSES):
        if not condition():
            return
        await pause(FIRST_PAUSE * 2**number)


def _is_same(topic: str, before: Answer, after: Answer | Exception) -> bool:
    """Tell whether a topic that was allowed is so still, with the same sub-topics."""
    return (
        not isinstance(after, Exception)
        and is_allowed(after)
        and denied_below(topic, after) == denied_below(topic, before)
    )


class Grounds(Struct):
    """The decisions that a recovery rests on, and the session's generation in which they were taken."""

    decisions: Decisions
    generation: int


class RecoveringEndpoint(Endpoint):
    """The part of a session that lets a client have what it missed (docs/reference/protocol.md, "Recovery")."""

    __slots__ = ("_check_grant", "_generation", "_hold", "_policy")

    def __init__(
        self,
        services: Services,
        transport: Transport,
        identity: Identity,
        limits: Limits,
    ) -> None:
        super().__init__(services, transport, identity, limits)
        self._policy = services.policy
        self._check_grant = services.check_grant
        # Grows when decisions are to be taken again: one that was asked for in an earlier generation does not count.
        self._generation = 0
        # Set while decisions are taken again.
        self._hold: Hold | None = None

    def _process(self, request: Any) -> Awaitable[None] | None:
        """Handle a request from its beginning on. Raises what is wrong with it."""
        raise NotImplementedError

    async def _latest(
        self, awaited: Awaitable[T], ask: Callable[[], T | Awaitable[T]], generation: int
    ) -> T:
        """Await an answer that was asked for in this generation; ask again if another one has begun meanwhile.

        Raises:
            Unavailable: another one began before each of ``MAX_ANSWERS`` answers.
        """
        answers = 0
        while True:
            answer = await awaited
            if generation == self._generation:
                return answer
            answers += 1
            if answers == MAX_ANSWERS:
                raise Unavailable("what the client may do changes before it is decided")
            generation = self._generation
            again = ask()
            if not isinstance(again, Awaitable):
                return again
            awaited = again

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
        decisions = self._ask_about(request)
        if isinstance(decisions, dict):
            return self._resume_allowed(request, decisions)
        latest = self._latest(decisions, partial(self._ask_about, request), self._generation)
        return self._continue(request, latest, partial(self._resume_allowed, request))

    def _ask_about(self, request: Resume) -> Decisions | Awaitable[Decisions]:
        quota = SubscriptionQuota(self._subscriber, self._limits)

        def ask(topic: str) -> Answer | Awaitable[Answer]:
            if self._closing:
                # Otherwise a client could leave a thousand questions behind, and come again.
                raise Unavailable("the connection is closing")
            check(topic)
            quota.admit(topic)
            return self._ask_for(request, topic)

        return ask_each(ask, dict.fromkeys(request.topics), self._services.gather)

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

        It waits for the replies to earlier publishes, for this process to have read what the client has had, for what is
        held back, and for the client's buffer to have room.
        """
        grounds = Grounds(decisions, self._generation)
        replied = None if self._replies is None else self._replies.sent()
        if replied is not None or self._is_early(request):
            ready = self._until_ready(request, replied)
            return self._continue(request, ready, lambda _: self._recover_now(request, grounds))
        return self._send_replay(request, grounds)

    async def _until_ready(self, request: Any, replied: Awaitable[None] | None) -> None:
        if replied is not None:
            # Otherwise the ack would wait for them, and the log may lose its continuity between the replay and the ack.
            await replied
        await wait_while(partial(self._is_early, request), self._services.pause)

    def _is_early(self, request: Any) -> bool:
        """Tell whether a recovery has to wait: a replay would come before what the client gets first."""
        return self._hold is not None or (
            request.since is not UNSET and self._node.is_behind(request.since)
        )

    def _recover_now(self, request: Any, grounds: Grounds) -> Awaitable[None] | None:
        if self._hold is not None:
            raise Unavailable("it is still being decided what the client may read")
        if grounds.generation != self._generation:
            return self._process(request)
        return self._send_replay(request, grounds)

    def _take(self, request: Any, decisions: Decisions) -> Replay:
        """Return what a request asks for, as far as it is allowed."""
        denied = _denied(decisions)
        if isinstance(request, Subscribe) and request.since is UNSET:
            assert request.last is not UNSET
            return self._node.replay_last(
                request.topic, request.last, denied.get(request.topic, NONE_DENIED)
            )
        return self._node.replay(tuple(_allowed(decisions)), request.since, denied)

    def _send_replay(self, request: Any, grounds: Grounds) -> Awaitable[None] | None:
        replay = self._take(request, grounds.decisions)
        if not replay.unencoded and has_room(
            self._transport.buffered_bytes, self._limits.buffered_bytes, replay.size
        ):
            return self._replay(request, grounds.decisions, replay)
        end = self._send_but_the_end(request, grounds)
        return self._continue(request, end, partial(self._replay, request, grounds.decisions))

    async def _send_but_the_end(self, request: Any, grounds: Grounds) -> Replay | None:
        """Send a replay, and what is published meanwhile. Return the end of it: send that before the next ``await``.

        Return ``None`` if nothing was sent, because the client does not read. A recovery is never partial: if something
        was sent, and the rest cannot be, close the connection and raise ``Unavailable``.
        """
        node = self._node
        # A coroutine may begin later than it is made: perhaps something is held back by now.
        await self._confirm(request, grounds, is_begun=False)
        window = Window(self._transport, self._limits.buffered_bytes, self._services.pause)
        # Taken here, in one step with the cursor below.
        replay = self._take(request, grounds.decisions)
        recovered = replay.recovered
        topics = frozenset((request.topic,)) if request.since is UNSET else recovered
        for _ in range(MAX_ROUNDS):
            epoch, cursor = node.epoch, node.cursor
            if not await self._send_in_bursts(
                window, replay, lambda: self._confirm(request, grounds, is_begun=window.is_used)
            ):
                if node.epoch == epoch:
                    return None
                return await self._send_but_the_end(request, grounds)
            since = node.replay(tuple(topics), cursor, _denied(grounds.decisions))
            if since.recovered != topics:
                raise self._give_up("what it missed was lost while it was sent the first part")
            replay = replace(since, recovered=recovered)
            if not replay.unencoded and window.has_room(replay.size):
                return replay
        raise self._give_up("more is published than it reads")

    async def _send_in_bursts(
        self, window: Window, replay: Replay, confirm: Callable[[], Awaitable[None]]
    ) -> bool:
        """Send all of a replay; ``False``: nothing, because the client does not read, or the replay is stale.

        ``confirm`` is called before each part but the first; it raises if the rest is not to be sent.
        """
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
            await confirm()
        return True

    async def _confirm(self, request: Any, grounds: Grounds, *, is_begun: bool) -> None:
        """Ask again about what is being sent, if decisions are to be taken again.

        ``is_begun``: some of it was sent.

        Raises:
            Unavailable: the answers are others. If something was sent, the connection is closed.
        """
        allowed = _allowed(grounds.decisions)
        while grounds.generation != self._generation:
            grounds.generation = self._generation
            await wait_while(lambda: self._hold is not None, self._services.pause)
            again = ask_each(partial(self._ask_for, request), allowed, self._services.gather)
            answers = again if isinstance(again, dict) else await again
            if self._closing:
                raise Unavailable("the connection is closing")
            if self._hold is not None or not all(
                _is_same(topic, answer, answers[topic]) for topic, answer in allowed.items()
            ):
                error = Unavailable("what the client may read has changed")
                if is_begun:
                    self.close(CloseCode.GOING_AWAY, error, discard=True)
                raise error
            grounds.decisions.update(answers)

    def _ask_for(self, request: Any, topic: str) -> Answer | Awaitable[Answer]:
        """Ask about a topic of a request."""
        if isinstance(request, Resume):
            return self._may_subscribe(topic, (request.grants or {}).get(topic, UNSET))
        return self._may_subscribe(topic, request.grant)

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
