"""Policies: ``DWSPS["POLICY"]`` names one of these, or a class of the project."""

from collections.abc import Awaitable, Callable
from functools import partial
from inspect import isawaitable
from typing import Any

from asgiref.sync import iscoroutinefunction

from dwsps_channels.core.identity import Identity
from dwsps_channels.core.policy import Answer, Decision, Policy, answer_of, nonblocking
from dwsps_channels.rules.policy import TopicRules
from dwsps_channels.threads.database import Refresher
from dwsps_channels.threads.pools import ask

__all__ = [
    "AllowAll",
    "AuthenticatedOnly",
    "Decision",
    "Identity",
    "Policy",
    "ReadOnly",
    "TopicRules",
    "nonblocking",
]


class AllowAll:
    """Everybody may do everything, as in dwsps."""

    @nonblocking
    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        return True

    @nonblocking
    def may_publish(self, identity: Identity, topic: str) -> bool:
        return True


class AuthenticatedOnly:
    """Logged-in users may do everything, all others nothing."""

    needs_user = True
    """Have ``manage.py check`` warn if no middleware on the websocket routes looks up users."""

    @nonblocking
    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        return identity.is_authenticated

    @nonblocking
    def may_publish(self, identity: Identity, topic: str) -> bool:
        return identity.is_authenticated


class ReadOnly:
    """Everybody may subscribe; only the server's own code publishes."""

    @nonblocking
    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        return True

    @nonblocking
    def may_publish(self, identity: Identity, topic: str) -> bool:
        return False


Question = Callable[[Identity, str], Answer | Awaitable[Answer]]


class ThreadOffloadingPolicy:
    """A project's policy, called so that no method of it blocks the event loop.

    A plain method is called in a thread, unless it is marked ``nonblocking``; an ``async def`` method is awaited.
    Broken database connections are closed in both cases.
    """

    def __init__(self, policy: Policy) -> None:
        self._connections = Refresher()
        self.may_subscribe: Question = self._unblocked(policy.may_subscribe)
        self.may_publish: Question = self._unblocked(policy.may_publish)
        self._policy = policy

    def forget(self, user: str = "") -> None:
        """Let the policy drop what it remembers of permissions, if it remembers any: they may have changed.

        Args:
            user: the primary key of the user whose permissions; empty: everybody's.
        """
        if (forget := getattr(self._policy, "forget", None)) is not None:
            forget(user)
        for rules in self._rules_asked():
            rules.forget(user)

    def forget_rules(self) -> None:
        """Do as ``forget`` does for everybody; a policy with a method of this name may keep what is known of users."""
        if (forget := getattr(self._policy, "forget_rules", None)) is not None:
            forget()
        elif (forget := getattr(self._policy, "forget", None)) is not None:
            forget("")
        for rules in self._rules_asked():
            rules.forget_rules()

    def _rules_asked(self) -> list[TopicRules]:
        """Return the topic rules that the policy may ask. It need not know that these remember something."""
        return [rules for rules in list(TopicRules.in_use) if rules is not self._policy]

    def _unblocked(self, question: Any) -> Question:
        if getattr(question, "nonblocking", False):
            return partial(_at_once, question)
        if iscoroutinefunction(question) or iscoroutinefunction(type(question).__call__):
            return partial(self._await, question)
        return partial(_in_thread, question)

    async def _await(
        self, question: Callable[[Identity, str], Awaitable[Answer]], identity: Identity, topic: str
    ) -> Answer:
        await self._connections.refresh()
        try:
            return answer_of(await question(identity, topic))
        except Exception:
            self._connections.suspect()
            raise


def _at_once(question: Question, identity: Identity, topic: str) -> Answer | Awaitable[Answer]:
    answer = question(identity, topic)
    return answer if isawaitable(answer) else answer_of(answer)


async def _in_thread(question: Question, identity: Identity, topic: str) -> Answer:
    answer = await ask(question, identity, topic)
    # A plain method may hand on what an ``async def`` one returns.
    return answer_of(await answer) if isawaitable(answer) else answer_of(answer)
