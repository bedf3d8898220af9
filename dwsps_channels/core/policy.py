"""The contract of policies, which decide what each client may do."""

from collections.abc import Awaitable
from typing import Protocol

from msgspec import Struct

from dwsps_channels.core.identity import Identity


class Decision(Struct, frozen=True):
    """A policy's answer that says more than yes or no."""

    allowed: bool
    reason: str = ""
    """One sentence for the client's developer, for the ``forbidden`` error."""
    denied: tuple[str, ...] = ()
    """Topics below the subscription's topic that it does not get, with all below them. Others are ignored."""
    recheck_after: float | None = None
    """Seconds after which the policy is asked again about the subscription; ``None``: only when something changes."""


def is_allowed(answer: object) -> bool:
    """Tell whether a policy's answer, or what it raised, is a yes."""
    return answer is True or (isinstance(answer, Decision) and answer.allowed is True)


class Policy(Protocol):
    """Decides before each subscribe and publish. Returning a ``bool`` is faster than returning an awaitable."""

    def may_subscribe(self, identity: Identity, topic: str) -> bool | Awaitable[bool]:
        """Return whether ``identity`` may subscribe to ``topic``, and so receive its sub-topics as well."""

    def may_publish(self, identity: Identity, topic: str) -> bool | Awaitable[bool]:
        """Return whether ``identity`` may publish to ``topic``."""
