"""Rechecks: the decisions about a connection are taken again, while it stands."""

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Final

from msgspec import UNSET, UnsetType

from dwsps_channels.core.grants import no_grants
from dwsps_channels.core.hold import HeldDelivery, Hold
from dwsps_channels.core.identity import Identity
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.policy import (
    ANSWERS,
    NONE_DENIED,
    Answer,
    Decision,
    answer_of,
    denied_below,
)
from dwsps_channels.core.recovery import Decisions, RecoveringEndpoint, ask_each, wait_while
from dwsps_channels.core.services import Services
from dwsps_channels.core.subscription import Subscription
from dwsps_channels.core.transport import Transport
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Forbidden, Unauthorized, Unavailable, WireError
from dwsps_channels.protocol.messages import Unsubscribed, encode
from dwsps_channels.protocol.text import printable
from dwsps_channels.protocol.timestamps import now
from dwsps_channels.protocol.topics import contexts

logger = logging.getLogger("dwsps_channels.session")

LookUp = Callable[[], Awaitable[Identity | None]]
"""Returns the identity of a client as it is now, with the same ``client``; ``None``: the client is nobody any more."""


class _NobodysPolicy:
    """The policy of a connection that is closed because its client may not have it."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        return False

    def may_publish(self, identity: Identity, topic: str) -> bool:
        return False


_NOBODYS: Final = _NobodysPolicy()

# What closes the connection of a client that may not have it, or of which that is not known.
_REFUSALS: Final = (CloseCode.UNAUTHORIZED, CloseCode.FORBIDDEN, CloseCode.UNVERIFIED)


class RecheckingEndpoint(RecoveringEndpoint):
    """The part of a session that asks again about its client, and about the subscriptions that stand."""

    __slots__ = ("_identified",)

    def __init__(
        self,
        services: Services,
        transport: Transport,
        identity: Identity,
        limits: Limits,
    ) -> None:
        super().__init__(services, transport, identity, limits)
        # The generation in which the identity was looked up.
        self._identified = 0

    def recheck(self, topics: Collection[str] | None) -> Awaitable[None] | None:
        """Ask again about the subscriptions at, above and below ``topics``, which are valid; ``None``: about all.

        The call itself takes effect at once: no decision from before it counts any more, and until the new ones are
        there nothing is sent. If an awaitable is returned, await it, or close the session. It never raises.
        """
        standing = self._subscriber.subscriptions
        return self._recheck(list(standing) if topics is None else _related(standing, topics))

    def recheck_subscription(self, topic: str) -> Awaitable[None] | None:
        """Do the same as ``recheck`` about the subscription to ``topic`` alone, if there is one."""
        return self._recheck([topic] if topic in self._subscriber.subscriptions else [])

    def verify(self, look_up: LookUp) -> Awaitable[None]:
        """Look the client up again, then recheck all; close the connection if it is nobody any more.

        The call itself takes effect at once: until ``look_up`` and the policy have answered, nothing is sent, and no
        request is decided. Await what is returned, or close the session. It never raises: if ``look_up`` does, the
        connection is closed.
        """
        self._generation += 1
        if self._closing:
            # The look-up comes too late for what is still being decided.
            self._refuse_all()
        else:
            self._hold_back().verifying += 1
            for subscription in self._subscriber.subscriptions.values():
                self._hub.deny(subscription, NONE_DENIED)
        return self._verify(look_up, self._generation)

    def close(self, code: CloseCode, error: WireError, *, discard: bool = False) -> None:
        """Do as ``Endpoint.close``; if the client may not have the connection, what is being decided is refused."""
        if code in _REFUSALS:
            if not self._closing:
                logger.info("client %s closed: %s", self.identity.client, printable(error.reason))
            self._generation += 1
            self._refuse_all()
        super().close(code, error, discard=discard)

    def _refuse_all(self) -> None:
        self._policy, self._check_grant = _NOBODYS, no_grants

    def _recheck(self, topics: Collection[str]) -> Awaitable[None] | None:
        self._generation = generation = self._generation + 1
        if self._closing or not topics:
            return None
        subscriptions = [self._subscriber.subscriptions[topic] for topic in topics]
        ask = partial(self._ask_again, generation)
        decisions = ask_each(ask, topics, self._services.scheduler.gather)
        if not isinstance(decisions, dict):
            hold = self._hold_back()
            for subscription in subscriptions:
                # All that comes meanwhile is kept. It is sorted out once it is known what is denied now.
                self._hub.deny(subscription, NONE_DENIED)
                hold.undecided[subscription] = generation
            return self._settle_later(subscriptions, decisions, generation)
        for subscription in subscriptions:
            self._settle(subscription, decisions[subscription.topic])
        self._release()
        return None

    async def _settle_later(
        self,
        subscriptions: Sequence[Subscription],
        decisions: Awaitable[Decisions],
        generation: int,
    ) -> None:
        answers: Decisions = {}
        try:
            answers = await decisions
        finally:
            # An answer that did not come, because this was cancelled, is a no.
            for subscription in subscriptions:
                if self._hold is None or self._closing:
                    break
                # It may have been asked about again, or be decided already.
                if self._hold.undecided.get(subscription) == generation:
                    self._settle(subscription, answers.get(subscription.topic, False))
            self._release()

    async def _verify(self, look_up: LookUp, generation: int) -> None:
        identity, problem = None, "the user could not be looked up"
        try:
            identity = await look_up()
            problem = "the user is not logged in any more"
        except Exception as error:
            problem = self._failure(error).reason
        finally:
            if self._hold is not None:
                self._hold.verifying -= 1
            # A later look-up knows more.
            is_latest = generation > self._identified
            if identity is None and is_latest and not self._closing:
                self.close(CloseCode.UNAUTHORIZED, Unauthorized(problem), discard=True)
        if self._closing:
            return
        if identity is not None and is_latest:
            self._identify(identity, generation)
            if (pending := self.recheck(None)) is not None:
                await pending
        self._release()

    def _identify(self, identity: Identity, generation: int) -> None:
        """Replace the identity by one that was looked up in this generation."""
        self._identified = generation
        self.identity = identity
        self._services.on_identity(self)

    @property
    def _is_unverified(self) -> bool:
        """True while the client is being looked up."""
        return self._hold is not None and self._hold.verifying > 0

    async def _once_verified(self, ask: Callable[[], Answer | Awaitable[Answer]]) -> Answer:
        """Wait until the client was looked up, then ask."""
        await wait_while(lambda: self._is_unverified, self._services.pause)
        if self._is_unverified:
            raise Unavailable("the user is being looked up")
        answer = ask()
        return answer if isinstance(answer, ANSWERS) else answer_of(await answer)

    def _may_subscribe(self, topic: str, grant: str | UnsetType) -> Answer | Awaitable[Answer]:
        ask = super()._may_subscribe
        if self._is_unverified:
            return self._once_verified(lambda: ask(topic, grant))
        return ask(topic, grant)

    def _may_publish(self, topic: str) -> Answer | Awaitable[Answer]:
        """Ask the policy, if something is held back."""
        if self._is_unverified:
            return self._once_verified(lambda: self._policy.may_publish(self.identity, topic))
        return self._policy.may_publish(self.identity, topic)

    def _ask_again(self, generation: int, topic: str) -> Answer | Awaitable[Answer]:
        subscription = self._subscriber.subscriptions.get(topic)
        hold = self._hold
        if subscription is None or (
            hold is not None and hold.undecided.get(subscription, 0) > generation
        ):
            # Else every change would leave a thousand questions behind.
            raise Unavailable("the subscription has ended, or was asked about again")
        # Not after a look-up that is on its way: that has its turn behind this, and asks about everything once more.
        if subscription.grant:
            return self._ask_again_with(subscription.grant, topic)
        return super()._may_subscribe(topic, UNSET)

    async def _ask_again_with(self, grant: str, topic: str) -> Answer:
        """Ask the policy if the client has become another one than the grant is for."""
        ask = super()._may_subscribe
        try:
            answer = ask(topic, grant)
            return answer if isinstance(answer, ANSWERS) else answer_of(await answer)
        except Forbidden:
            pass
        decision = ask(topic, UNSET)
        return decision if isinstance(decision, ANSWERS) else answer_of(await decision)

    def _subscribe(self, topic: str, answer: Answer, grant: str | UnsetType = UNSET) -> None:
        super()._subscribe(topic, answer, grant)
        self._recheck_in_time(topic, answer)
        if self._hold is not None:
            # What was decided just now is newer than what is still to come.
            subscription = self._subscriber.subscriptions[topic]
            self._hold.undecided.pop(subscription, None)
            self._hub.redirect(subscription, HeldDelivery(self._hold, subscription))

    def _unsubscribe(self, topic: str) -> bool:
        """End a subscription; ``False``: there was none."""
        if not self._hub.unsubscribe(self._subscriber, topic):
            return False
        self._services.scheduler.forget_recheck(self, topic)
        for observer in self._observers:
            observer.unsubscribed(self.identity, topic)
        return True

    def _recheck_in_time(self, topic: str, answer: Answer) -> None:
        if isinstance(answer, Decision) and answer.recheck_after is not None:
            self._services.scheduler.recheck_later(self, topic, answer.recheck_after)

    def _settle(self, subscription: Subscription, decision: Answer | Exception) -> None:
        """Let what was decided about a subscription take effect."""
        if self._hold is not None:
            self._hold.undecided.pop(subscription, None)
        topic = subscription.topic
        if self._subscriber.subscriptions.get(topic) is not subscription:
            return  # it ended meanwhile
        if not isinstance(decision, Exception) and decision:
            self._hub.deny(subscription, denied_below(topic, decision))
            self._recheck_in_time(topic, decision)
            return
        if isinstance(decision, Exception):
            error = self._failure(decision)
        else:
            error = self._forbidden(topic, decision)
        logger.info("client %s unsubscribed: %s", self.identity.client, printable(error.reason))
        self._unsubscribe(topic)
        # Behind the replies that wait: one of them may be the ack of this subscription.
        self._answer(encode(Unsubscribed(now(), topic, error.code, error.reason)))

    def _failure(self, error: Exception) -> WireError:
        """Return what to tell the client of a recheck that failed. If it is a policy's failure, only the log tells it."""
        if isinstance(error, WireError):
            return error
        self._services.scheduler.failed(error)
        return Unavailable("the server could not decide this again, its log says why")

    def _hold_back(self) -> Hold:
        """Send nothing until ``_release``."""
        if self._hold is None:
            hold = Hold(self._transport, self._limits.buffered_bytes, self._node.cursor)
            self._redirect(hold)
            self._hold = hold
            for subscription in self._subscriber.subscriptions.values():
                self._hub.redirect(subscription, HeldDelivery(hold, subscription))
        return self._hold

    def _release(self) -> None:
        """Send what was held back, if all is decided."""
        hold = self._hold
        if hold is None or hold.undecided or hold.verifying or self._closing:
            return
        self._hold = None
        self._redirect(hold.transport)
        for subscription in self._subscriber.subscriptions.values():
            self._hub.redirect(subscription, hold.transport)
        if hold.is_overrun:
            self.on_slow_consumer()
        else:
            hold.release()

    def _redirect(self, transport: Transport) -> None:
        self._transport = transport
        if self._replies is not None:
            self._replies.send = transport.send

    def _sent_cursor(self) -> str:
        return super()._sent_cursor() if self._hold is None else self._hold.cursor


def _related(standing: Collection[str], topics: Collection[str]) -> list[str]:
    """Return which of the topics ``standing`` are at, above or below one of ``topics``."""
    changed = frozenset(topics)
    above = {context for topic in topics for context in contexts(topic)}
    return [
        topic for topic in standing if topic in above or not changed.isdisjoint(contexts(topic))
    ]
