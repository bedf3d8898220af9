"""Rechecks: the decisions about a connection are taken again, while it stands."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from dwsps_channels.core.grants import CheckGrant
from dwsps_channels.core.identity import Identity
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.node import Node
from dwsps_channels.core.observer import Observer
from dwsps_channels.core.pacing import Pause
from dwsps_channels.core.policy import Decision, Policy, denied_below, is_allowed
from dwsps_channels.core.recovery import Decisions, Gather, RecoveringEndpoint, ask_each
from dwsps_channels.core.scheduler import Scheduler
from dwsps_channels.core.transport import Transport
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Forbidden, Unauthorized
from dwsps_channels.protocol.messages import Unsubscribed, encode
from dwsps_channels.protocol.timestamps import now
from dwsps_channels.protocol.topics import contexts

OnIdentity = Callable[["RecheckingEndpoint"], None]
"""Is called after the identity of a session was replaced."""

LookUp = Callable[[], Awaitable[Identity | None]]
"""Returns the identity of a client as it is now, with the same ``client``; ``None``: the client is nobody any more."""


class RecheckingEndpoint(RecoveringEndpoint):
    """The part of a session that asks again about its client, and about the subscriptions that stand."""

    __slots__ = ("_generation", "_identified", "_on_identity", "_scheduler")

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
        scheduler: Scheduler,
        on_identity: OnIdentity,
    ) -> None:
        super().__init__(
            node,
            transport,
            identity,
            policy,
            limits,
            observers,
            clock,
            gather,
            pause,
            check_grant,
        )
        self._scheduler = scheduler
        self._on_identity = on_identity
        # Grows with each recheck: what was asked before it is asked again.
        self._generation = 0
        # The generation in which the identity was looked up.
        self._identified = 0

    def recheck(self, topics: Collection[str] | None) -> Awaitable[None] | None:
        """Ask again about the subscriptions at, above and below ``topics``, which are valid; ``None``: about all.

        The call itself takes effect at once: no decision from before it counts any more. If an awaitable is returned,
        await it, or close the session. It never raises.
        """
        self._generation += 1
        standing = self._subscriber.subscriptions
        affected = list(standing) if topics is None else _related(standing, topics)
        if self._closing or not affected:
            return None
        generation = self._generation
        decisions = ask_each(self._ask_again, affected, self._gather)
        if isinstance(decisions, dict):
            self._settle(decisions)
            return None
        return self._settle_later(decisions, generation)

    def verify(self, look_up: LookUp) -> Awaitable[None]:
        """Look the client up again, then recheck all; close the connection if it is nobody any more.

        The call itself takes effect at once, as that of ``recheck``. Await what is returned, or close the session. It
        never raises: if ``look_up`` does, the connection is closed.
        """
        self._generation += 1
        return self._verify(look_up, self._generation)

    async def _verify(self, look_up: LookUp, generation: int) -> None:
        try:
            identity = await look_up()
            problem = "the user is not logged in any more"
        except Exception as error:
            identity, problem = None, self._wire_error(error).reason
        # A later look-up knows more.
        if self._closing or generation <= self._identified:
            return
        if identity is None:
            self.close(CloseCode.UNAUTHORIZED, Unauthorized(problem), discard=True)
            return
        self._identify(identity, generation)
        if (pending := self.recheck(None)) is not None:
            await pending

    def _identify(self, identity: Identity, generation: int) -> None:
        self._identified = generation
        self.identity = identity
        self._on_identity(self)

    def _ask_again(self, topic: str) -> bool | Decision | Awaitable[bool | Decision]:
        subscription = self._subscriber.subscriptions.get(topic)
        if subscription is None or not subscription.grant:
            return self._policy.may_subscribe(self.identity, topic)
        return self._ask_again_with(subscription.grant, topic)

    async def _ask_again_with(self, grant: str, topic: str) -> bool | Decision:
        """Ask the policy if the client has become another one than the grant is for."""
        try:
            answer = self._check_grant(self.identity, topic, grant)
            return answer if isinstance(answer, bool | Decision) else await answer
        except Forbidden:
            pass
        decision = self._policy.may_subscribe(self.identity, topic)
        return decision if isinstance(decision, bool | Decision) else await decision

    async def _settle_later(self, decisions: Awaitable[Decisions], generation: int) -> None:
        answers = await decisions
        if generation == self._generation:
            self._settle(answers)

    def _settle(self, decisions: Decisions) -> None:
        """Let what was decided about subscriptions take effect."""
        for topic, decision in decisions.items():
            if topic in self._subscriber.subscriptions and not self._closing:
                if is_allowed(decision):
                    self._keep(topic, decision)
                else:
                    self._end(topic, decision)

    def _keep(self, topic: str, decision: Any) -> None:
        self._hub.deny(self._subscriber.subscriptions[topic], denied_below(topic, decision))
        if isinstance(decision, Decision) and decision.recheck_after is not None:
            self._scheduler.recheck_later(self, topic, decision.recheck_after)

    def _end(self, topic: str, decision: Any) -> None:
        """End a subscription that is not allowed any more."""
        error = self._forbidden(topic, decision)
        self._hub.unsubscribe(self._subscriber, topic)
        for observer in self._observers:
            observer.unsubscribed(self.identity, topic)
        self._transport.send(encode(Unsubscribed(now(), topic, error.code, error.reason)))


def _related(standing: Collection[str], topics: Collection[str]) -> list[str]:
    """Return which of the topics ``standing`` are at, above or below one of ``topics``."""
    changed = frozenset(topics)
    above = {context for topic in topics for context in contexts(topic)}
    return [
        topic for topic in standing if topic in above or not changed.isdisjoint(contexts(topic))
    ]
