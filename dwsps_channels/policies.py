"""Who may subscribe and publish: ``DWSPS["POLICY"]`` names one of these, or a class of the project's own."""

from collections.abc import Awaitable, Callable
from functools import partial
from inspect import isawaitable
from typing import cast

from channels.db import database_sync_to_async
from django.core.exceptions import SynchronousOnlyOperation

from dwsps_channels.core.identity import Identity
from dwsps_channels.core.policy import Policy

__all__ = ["AllowAll", "AuthenticatedOnly", "Identity", "Policy", "ReadOnly", "Unblocked"]


class AllowAll:
    """Everybody may do everything, as in dwsps."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        return True

    def may_publish(self, identity: Identity, topic: str) -> bool:
        return True


class AuthenticatedOnly:
    """Who has logged in may do everything, nobody else anything."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        return identity.is_authenticated

    def may_publish(self, identity: Identity, topic: str) -> bool:
        return identity.is_authenticated


class ReadOnly:
    """Everybody may subscribe; only the server's own code publishes."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool:
        return True

    def may_publish(self, identity: Identity, topic: str) -> bool:
        return False


Question = Callable[[Identity, str], bool | Awaitable[bool]]


class Unblocked:
    """A project's policy, such that it may ask the database from a plain method, too.

    A method that turns out to need it is called in a thread from then on, with the connections cared for.
    """

    def __init__(self, policy: Policy) -> None:
        self.may_subscribe: Question = partial(self._ask, "may_subscribe", policy.may_subscribe)
        self.may_publish: Question = partial(self._ask, "may_publish", policy.may_publish)

    def _ask(
        self, name: str, question: Question, identity: Identity, topic: str
    ) -> bool | Awaitable[bool]:
        try:
            answer = question(identity, topic)
        except SynchronousOnlyOperation:
            # A coroutine function cannot have raised it here, so the question is a plain one.
            in_thread: Question = database_sync_to_async(
                cast(Callable[[Identity, str], bool], question)
            )
            setattr(self, name, in_thread)
            return in_thread(identity, topic)
        return answer if isawaitable(answer) else bool(answer)
