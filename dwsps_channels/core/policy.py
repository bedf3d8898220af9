"""The contract of policies, which decide what each client may do."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import force_setattr

from dwsps_channels.core.identity import Identity
from dwsps_channels.protocol.errors import InvalidTopic
from dwsps_channels.protocol.topics import check

DeniedTopics = frozenset[str]
"""The topics below a subscription's topic that it does not get, with all below them."""

NONE_DENIED: Final[DeniedTopics] = frozenset()


class Decision(Struct, frozen=True):
    """A policy's answer that says more than yes or no. It is true if it allows.

    Raises:
        TypeError: ``denied`` is a single text.
        ValueError: a topic in ``denied`` breaks the grammar, or ``recheck_after`` is not above 0.
    """

    allowed: bool
    reason: str = ""
    """One sentence for the client's developer, for the ``forbidden`` error."""
    denied: tuple[str, ...] = ()
    """Topics below the subscription's topic that it does not get, with all below them. Others are ignored."""
    recheck_after: float | None = None
    """Seconds after which the policy is asked again about the subscription; ``None``: only when something changes."""

    def __post_init__(self) -> None:
        # A mistake here would allow what is meant to be denied.
        denied: Any = self.denied
        if isinstance(denied, str):
            raise TypeError(f"'denied' is a tuple of topics, not '{denied}'")
        for topic in self.denied:
            try:
                check(topic)
            except InvalidTopic as error:
                raise ValueError(f"'{topic}' cannot be denied: {error.reason}") from None
        if self.recheck_after is not None and not self.recheck_after > 0:
            raise ValueError("'recheck_after' is a number of seconds above 0")
        # As for a policy that returns it without a decision: whatever is true allows.
        force_setattr(self, "allowed", bool(self.allowed))

    def __bool__(self) -> bool:
        return self.allowed


Answer = bool | Decision

ANSWERS: Final = (bool, Decision)
"""The types of an answer that is there at once."""


def is_allowed(answer: object) -> bool:
    """Tell whether a policy's answer, or what it raised, is a yes."""
    return answer is True or (isinstance(answer, Decision) and answer.allowed)


class Policy(Protocol):
    """Decides before each subscribe and publish. Returning a ``bool`` is faster than anything else."""

    def may_subscribe(self, identity: Identity, topic: str) -> Answer | Awaitable[Answer]:
        """Return whether ``identity`` may subscribe to ``topic``, and so receive its sub-topics as well.

        A ``Decision`` may leave out some of the sub-topics.
        """

    def may_publish(self, identity: Identity, topic: str) -> Answer | Awaitable[Answer]:
        """Return whether ``identity`` may publish to ``topic``."""


def answer_of(value: Any) -> Answer:
    """Return the answer that a policy has given with ``value``: all that is no ``Decision`` counts as true or false."""
    return value if isinstance(value, Decision) else bool(value)


def reason_of(answer: Answer) -> str:
    """Return the reason of a refusal; empty: the policy gave none."""
    return answer.reason if isinstance(answer, Decision) else ""


def denied_below(topic: str, answer: Answer) -> DeniedTopics:
    """Return what a subscription to ``topic`` does not get, if ``answer`` allows it."""
    if not isinstance(answer, Decision) or not answer.denied:
        return NONE_DENIED
    below = topic + "."
    return frozenset(each for each in answer.denied if each.startswith(below))


Method = TypeVar("Method", bound=Callable[..., Any])


def nonblocking(method: Method) -> Method:
    """Mark a plain method of a policy, so that it is called on the event loop and not in a thread.

    Use it for a method that only compares its arguments. The method must not use the database, nor wait for anything
    else, because all connections of the process would wait with it. This saves the switch to a thread and back.
    """
    method.nonblocking = True  # type: ignore[attr-defined]
    return method
