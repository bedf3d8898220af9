"""The contract of schedulers, by which sessions have something done later."""

from collections.abc import Awaitable, Callable, Collection
from time import time
from typing import Any, Final, Protocol


class Recheckable(Protocol):
    """A session, as far as a scheduler knows it."""

    def recheck(self, topics: Collection[str] | None) -> Awaitable[None] | None: ...


class Timer(Protocol):
    """A call that is due later. ``asyncio.TimerHandle`` is one."""

    def cancel(self) -> object:
        """Cancel the call, if it was not made yet."""


class Scheduler(Protocol):
    """Does later what sessions ask for. One serves all sessions of a process."""

    def time(self) -> float:
        """Return the seconds since 1970."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call ``callback`` after so many seconds."""

    async def gather(self, *questions: Awaitable[Any]) -> list[Any]:
        """Await the questions of a recheck, some at once; return the answers in order.

        How many it awaits at once depends on the rechecks of all sessions. A question that takes too long is cancelled,
        and a ``TimeoutError`` is its answer.
        """

    def failed(self, error: Exception) -> None:
        """Have the log tell that a recheck has failed, which may have failed for thousands of sessions."""

    def recheck_later(self, session: Recheckable, topic: str, seconds: float) -> None:
        """Await ``session.recheck_subscription(topic)`` after so many seconds, in turn with other rechecks.

        A topic that is scheduled already is due at the earlier of the two times. Drop it if the session is closed.
        """

    def forget_recheck(self, session: Recheckable, topic: str) -> None:
        """Undo ``recheck_later``, if it was called: the subscription has ended."""


class _Never:
    def time(self) -> float:
        return time()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return self

    async def gather(self, *questions: Awaitable[Any]) -> list[Any]:
        return [await each for each in questions]

    def failed(self, error: Exception) -> None:
        pass

    def recheck_later(self, session: Recheckable, topic: str, seconds: float) -> None:
        pass

    def forget_recheck(self, session: Recheckable, topic: str) -> None:
        pass

    def cancel(self) -> None:
        pass


NEVER: Final = _Never()
"""The ``Scheduler`` of those whose policy and tokens know no time: it does nothing."""
