"""The turns of sessions at their rechecks: a few at once, the others one after the other."""

import asyncio
import warnings
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from contextvars import Context
from typing import Any, Final, TypeVar

from msgspec import Struct

from dwsps_channels.core.session import Session
from dwsps_channels.server.garbage import FullCollections
from dwsps_channels.threads.time_limit import in_time

T = TypeVar("T")

# Look-ups and questions to the policy under way at once.
MAX_AT_ONCE: Final = 16

# Seconds until one of them counts as failed. So many that hang would keep all others from their turn, and their own sessions
# held back for ever. No query that a connection waits for takes that long, even behind others for the same thread.
MAX_ANSWER_TIME: Final = 10.0

# Seconds for which sessions are held back within a notice's own call: nothing that is published after it reaches them. If
# they are more than some hundreds, the others follow in slices, between which everybody else has a turn.
SLICE: Final = 0.005

# From so many sessions on, full garbage collections wait until their rechecks are done.
MANY: Final = 500

Begin = Callable[[Session], Awaitable[None] | None]
"""Begins a recheck: has a session hold back what it would send. If it returns an awaitable, that is the rest."""


class RecheckStats(Struct, frozen=True):
    """The counters of the rechecks."""

    to_hold_back: int
    """Sessions that a notice is about, and that still send: their turn comes next."""
    undecided: int
    """Rechecks that wait for look-ups or for the policy."""


class Turns:
    """Begins all rechecks at once or in slices, and completes ``MAX_AT_ONCE`` of them at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, is_open: Callable[[Session], bool]) -> None:
        """Take ``is_open``, which tells whether a session is still there: it may leave before its turn."""
        self._loop = loop
        self._is_open = is_open
        # What is to be held back, in order and each once: changes may come faster than all sessions have had their turn.
        self._backlog: OrderedDict[tuple[Session, Begin], None] = OrderedDict()
        # What was held back and waits for its turn, and how many have theirs.
        self._pending: deque[Awaitable[None]] = deque()
        self._active = 0
        self._answers = asyncio.Semaphore(MAX_AT_ONCE)
        self._full_collections = FullCollections(loop)
        self._tasks: set[asyncio.Task[None]] = set()

    def begin_all(self, sessions: Iterable[Session], begin: Begin) -> None:
        """Recheck ``sessions``: hold them back now, or very soon if they are many."""
        started = list(sessions)
        if len(started) >= MANY:
            self._full_collections.put_off()
        is_idle = not self._backlog
        self._backlog.update(((session, begin), None) for session in started)
        if is_idle:
            self._begin_some()
            if self._backlog:
                self._spawn(self._begin_others())
            else:
                self._rest()

    def begin_first(self, sessions: Iterable[Session], begin: Begin) -> None:
        """Do as ``begin_all``; as many as fit into a slice come before the rechecks that wait for their turn."""
        rest = iter(sessions)
        ends = self._loop.time() + SLICE
        for session in rest:
            self.begin(session, begin)
            if self._loop.time() >= ends:
                self.begin_all(rest, begin)

    def begin(self, session: Session, begin: Begin) -> None:
        """Recheck one session: hold it back now."""
        rest = begin(session)
        if rest is not None:
            self._pending.append(rest)
            self._fill()

    async def answer(self, asking: Awaitable[T]) -> T:
        """Await a look-up or a question to the policy, when it is its turn.

        Raises:
            NoAnswer: there was none within ``MAX_ANSWER_TIME``.
            Exception: what awaiting it raises.
        """
        async with self._answers:
            return await in_time(asking, MAX_ANSWER_TIME)

    async def sleep(self, seconds: float) -> None:
        """Sleep within the rest of a recheck, and let another have its turn meanwhile."""
        self._active -= 1
        self._fill()
        await asyncio.sleep(seconds)
        self._active += 1

    def stats(self) -> RecheckStats:
        """Return the counters as they are now."""
        return RecheckStats(len(self._backlog), len(self._pending) + self._active)

    async def stop(self) -> None:
        """Drop what waits: the sessions are closed."""
        self._backlog.clear()
        self._full_collections.resume()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        with warnings.catch_warnings():
            # The questions that were not asked any more: Python would warn of each.
            warnings.simplefilter("ignore", RuntimeWarning)
            while self._pending:
                with suppress(AttributeError):
                    self._pending.popleft().close()  # type: ignore[attr-defined]

    async def _begin_others(self) -> None:
        while self._backlog:
            await asyncio.sleep(0)
            self._begin_some()
        self._rest()

    def _begin_some(self) -> None:
        ends = self._loop.time() + SLICE
        while self._backlog:
            (session, begin), _ = self._backlog.popitem(last=False)
            if self._is_open(session):
                self.begin(session, begin)
            if self._loop.time() >= ends:
                break

    def _fill(self) -> None:
        if self._pending and self._active < MAX_AT_ONCE:
            self._active += 1
            self._spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._pending:
                await self._pending.popleft()
        finally:
            self._active -= 1
            self._rest()

    def _rest(self) -> None:
        """Put nothing off any more, if all is done."""
        if not (self._backlog or self._pending or self._active):
            self._full_collections.resume()

    def _spawn(self, work: Any) -> None:
        # Not in the context of the code that has sent a notice: asgiref would have look-ups in its thread, which may
        # wait for them.
        task = self._loop.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
