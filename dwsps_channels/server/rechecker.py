"""Rechecks of the sessions of one process: because of a notice, or because it is time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import replace
from functools import partial
from time import time
from typing import Any, Final

from django.conf import settings

from dwsps_channels.core.identity import Identity
from dwsps_channels.core.notice import Disconnect, Notice, Permission, Rules, Verify
from dwsps_channels.core.scheduler import Recheckable
from dwsps_channels.core.session import Session
from dwsps_channels.core.sessions import Sessions
from dwsps_channels.logs.throttle import LogThrottle
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Unauthorized, Unavailable
from dwsps_channels.protocol.text import printable
from dwsps_channels.server.logins import Found, Login, SessionLogin
from dwsps_channels.server.recent_notices import RecentNotices
from dwsps_channels.server.turns import RecheckStats, Turns
from dwsps_channels.threads.pools import look_up

logger = logging.getLogger("dwsps_channels.access")

# A session whose user changes the password has the old one's hash, and another key, within a moment.
PASSWORD_PAUSE: Final = 0.3

# Its browser is to have the answer, with the new key, before the client comes back.
MOVE_GRACE: Final = 1.0

# A client that connects soon after a notice may have been looked up before it. It is looked up again, after each of these
# seconds: what a notice is about may not be finished when it is sent.
LATE_LOOK_UPS: Final = (0.0, 0.5, 10.0)

# Notices may have been missed whenever messages were. A channel layer that is overrun loses some all the time: between two
# rechecks for that reason are so many seconds.
MISSED_PAUSE: Final = 5.0

# If nobody knows when a session expires, it is looked up so many times before it would if it were new; but not more often
# or more rarely than this, in seconds. One that should have expired is looked up no more often, either.
EXPIRY_LOOKS: Final = 64
MIN_EXPIRY_INTERVAL: Final = 1.0
MAX_EXPIRY_INTERVAL: Final = 3600.0

MIN_RECHECK_PAUSE: Final = 0.05


class _Watch:
    """One session's login and timers."""

    __slots__ = ("expiry", "found", "late", "login", "rechecks")

    def __init__(self, login: Login | None) -> None:
        self.login = login
        self.found: Identity | None = None
        """The last that a look-up here has found."""
        self.expiry: asyncio.TimerHandle | None = None
        self.late: list[asyncio.TimerHandle] = []
        """Of the look-ups after a recent notice."""
        self.rechecks: dict[str, asyncio.TimerHandle] = {}
        """By topic."""

    def cancel(self) -> None:
        if self.expiry is not None:
            self.expiry.cancel()
        for timer in (*self.late, *self.rechecks.values()):
            timer.cancel()


class Rechecker:
    """Lets notices, the expiry of sessions, and ``Decision.recheck_after`` take effect. It is a ``Scheduler``."""

    def __init__(
        self,
        sessions: Sessions,
        login_of: Callable[[Any], Login | None],
        forget: Callable[[str], None],
        forget_rules: Callable[[], None],
        *,
        watches_expiry: bool = True,
    ) -> None:
        """Take the sessions of this process.

        Args:
            sessions: all of them.
            login_of: returns how a user is logged in who has sent a token; ``None``: it cannot be looked up.
            forget: has the policy drop what it remembers of a user, by primary key; empty: of everybody.
            forget_rules: has it drop the topic rules alone.
            watches_expiry: whether connections end with their Django sessions.
        """
        self._loop = asyncio.get_running_loop()
        self._sessions = sessions
        self._login_of = login_of
        self._forget = forget
        self._forget_rules = forget_rules
        self._watches_expiry = watches_expiry
        self._watches: dict[Recheckable, _Watch] = {}
        # The sessions that wait for their look-up to begin.
        self._to_look_up: set[Session] = set()
        self._turns = Turns(
            self._loop, lambda session: sessions.get(session.identity.client) is session
        )
        self._recent = RecentNotices(self._loop.time)
        # Runs after a recheck because of missed notices; and whether more were missed since.
        self._missed_pause: asyncio.TimerHandle | None = None
        self._missed_more = False
        self._throttle = LogThrottle()

    # Sessions

    def open(self, session: Session, login: Login | None) -> None:
        """Watch over a session that was opened, and whose client is logged in by ``login``; ``None``: it is not."""
        if login is not None:
            self._watch(session).login = login
            self._watch_expiry(session, login.expires_at)
            self._look_up_if_late(session)

    def identified(self, session: Any) -> None:
        """Take note that the identity of ``session`` was replaced."""
        watch = self._watches.get(session)
        if watch is None or watch.found is not session.identity:
            # By a token: it counts, whatever came with the handshake.
            watch = self._watch(session)
            watch.login = self._login_of(session.identity.user)
            self._watch_expiry(session, None)
            self._look_up_if_late(session)

    def discard(self, session: Session) -> None:
        """Forget ``session``, if it is watched."""
        self._to_look_up.discard(session)
        if (watch := self._watches.pop(session, None)) is not None:
            watch.cancel()

    def _watch(self, session: Recheckable) -> _Watch:
        watch = self._watches.get(session)
        if watch is None:
            watch = self._watches[session] = _Watch(None)
        return watch

    def _look_up_if_late(self, session: Session) -> None:
        """Look a client up again that may have been looked up before a recent notice."""
        watch = self._watches[session]
        for timer in watch.late:
            timer.cancel()
        watch.late.clear()
        if watch.login is None or not self._recent:
            return
        identity = session.identity
        if self._recent.is_about(self._sessions.user_of(identity), identity.session):
            watch.late.extend(
                self._loop.call_later(
                    pause, self._turns.begin, session, self._verify, context=Context()
                )
                for pause in LATE_LOOK_UPS
            )

    # Notices

    def heed(self, notice: Notice) -> None:
        """Do what a notice says."""
        match notice:
            case Disconnect(user=user, session=session):
                self._recent.note_disconnect(user=user, session=session)
                found = self._sessions.of_user(user) if user else self._sessions.of_session(session)
                self._turns.begin_first(found, _log_out)
            case Verify(session=session) if session:
                self._recent.note(session=session)
                self._turns.begin_all(self._sessions.of_session(session), self._verify)
            case Verify(user="") | Permission(user="", topic=""):
                self.recheck_all()
            case Verify(user=user) | Permission(user=user) if user:
                self._recent.note(user=user)
                # A user who cannot be looked up stays the same object, whose rights may be remembered.
                self._forget(user)
                self._turns.begin_all(self._sessions.of_user(user), self._verify)
            case Permission(topic=topic):
                self._forget("")
                self._turns.begin_all(self._sessions, lambda session: session.recheck((topic,)))
            case Rules():
                self._forget_rules()
                self._turns.begin_all(self._sessions, _recheck_all)

    def recheck_all(self) -> None:
        """Look everybody up again, and ask about everything."""
        self._forget("")
        self._recent.note()
        self._turns.begin_all(self._sessions, self._verify)

    def missed(self) -> None:
        """Recheck all, since notices may have been missed; a little later, if that was done a moment ago."""
        if self._missed_pause is not None:
            self._missed_more = True
            return
        self._missed_more = False
        self._missed_pause = self.call_later(MISSED_PAUSE, self._end_missed_pause)
        self.recheck_all()

    def _end_missed_pause(self) -> None:
        self._missed_pause = None
        if self._missed_more:
            self.missed()

    def was_disconnected(self, user: str, since: float) -> bool:
        """Return whether a user, by primary key, was disconnected after ``since``, in the event loop's time.

        A token that was looked up then may have been deleted meanwhile.
        """
        return self._recent.was_disconnected(user, since)

    def stats(self) -> RecheckStats:
        """Return the counters as they are now."""
        return self._turns.stats()

    async def stop(self) -> None:
        """Drop what waits: the sessions are closed."""
        if self._missed_pause is not None:
            self._missed_pause.cancel()
        await self._turns.stop()

    # Look-ups

    def _verify(self, session: Session) -> Awaitable[None] | None:
        watch = self._watches.get(session)
        if watch is None or watch.login is None:
            # A user that nobody had looked at, when the client came, may be known by now.
            login = self._login_of(session.identity.user)
            if login is None:
                return session.recheck(None)
            watch = self._watch(session)
            watch.login = login
        if session in self._to_look_up:
            return None  # it will find what is true then
        self._to_look_up.add(session)
        return session.verify(partial(self._look_up, session))

    async def _look_up(self, session: Session) -> Identity | None:
        """Return the identity of a client as it is now; ``None``: it is nobody any more, or the session was closed here."""
        self._to_look_up.discard(session)
        watch = self._watches.get(session)
        if watch is None or (login := watch.login) is None:
            return session.identity  # it has gone
        try:
            found = await self._settled(login)
        except Exception as error:
            if self._throttle.is_due(type(error)):
                logger.warning(
                    "clients are sent away, because their users cannot be looked up: %s",
                    printable(str(error)) or type(error).__name__,
                )
            _close_unverified(session, "the user cannot be looked up for now")
            return None
        if found.user is not None:
            watch.found = replace(session.identity, user=found.user)
            # Unless the client has left, or has sent a token since.
            if self._watches.get(session) is watch and watch.login is login:
                self._watch_expiry(session, found.expires_at)
            return watch.found
        if found.is_there or _has_expired(login):
            return None
        # A new password has given it a new key, or it was deleted: the client comes back with what it has now.
        _close_unverified(session, "the session has another key now")
        return None

    async def _settled(self, login: Login) -> Found:
        """Look a user up; again if its session may be about to change, or has changed and its browser does not know yet."""
        found = await self._found(login)
        if found.user is None and found.is_there and isinstance(login, SessionLogin):
            await self._turns.sleep(PASSWORD_PAUSE)
            found = await self._found(login)
        if not found.is_there and not _has_expired(login):
            await self._turns.sleep(MOVE_GRACE)
        return found

    async def _found(self, login: Login) -> Found:
        # Those that have slept come back together.
        return await self._turns.answer(look_up(login.look_up))

    # Times

    def time(self) -> float:
        """See ``Scheduler.time``."""
        return time()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """See ``Scheduler.call_later``."""
        return self._loop.call_later(seconds, callback, context=Context())

    async def gather(self, *questions: Awaitable[Any]) -> list[Any]:
        """See ``Scheduler.gather``."""
        return await asyncio.gather(*map(self._ask, questions))

    async def _ask(self, question: Awaitable[Any]) -> Any:
        try:
            return await self._turns.answer(question)
        except TimeoutError as error:
            return error  # an answer, as all that a policy raises

    def failed(self, error: Exception) -> None:
        """See ``Scheduler.failed``."""
        if self._throttle.is_due(("policy", type(error))):
            logger.error("subscriptions are ended, because the policy fails", exc_info=error)
        # Its frames refer to it: thousands of such errors would be garbage that only a full collection finds.
        error.__traceback__ = None

    def recheck_later(self, session: Recheckable, topic: str, seconds: float) -> None:
        """See ``Scheduler.recheck_later``."""
        rechecks = self._watch(session).rechecks
        due = self._loop.time() + max(MIN_RECHECK_PAUSE, seconds)
        if (timer := rechecks.get(topic)) is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        rechecks[topic] = self._loop.call_at(due, self._recheck, session, topic, context=Context())

    def forget_recheck(self, session: Recheckable, topic: str) -> None:
        """See ``Scheduler.forget_recheck``."""
        watch = self._watches.get(session)
        if watch is not None and (timer := watch.rechecks.pop(topic, None)) is not None:
            timer.cancel()

    def _recheck(self, session: Any, topic: str) -> None:
        del self._watches[session].rechecks[topic]
        self._turns.begin(session, lambda each: each.recheck_subscription(topic))

    def _watch_expiry(self, session: Session, expires_at: float | None) -> None:
        """Look the client up again when its Django session expires, or now and then if it is not known when."""
        watch = self._watch(session)
        if watch.expiry is not None:
            watch.expiry.cancel()
            watch.expiry = None
        if not isinstance(watch.login, SessionLogin) or not self._watches_expiry:
            return
        watch.login.expires_at = expires_at
        if expires_at is not None:
            left = expires_at - time()
            # A moment later, by which the store has it expired; unless it is a store that keeps what has expired.
            pause = left + 0.01 if left > 0 else MIN_EXPIRY_INTERVAL
        else:
            pause = min(
                max(settings.SESSION_COOKIE_AGE / EXPIRY_LOOKS, MIN_EXPIRY_INTERVAL),
                MAX_EXPIRY_INTERVAL,
            )
        watch.expiry = self._loop.call_later(
            pause, self._turns.begin, session, self._verify, context=Context()
        )


def _log_out(session: Session) -> None:
    error = Unauthorized("logged out by the server")
    session.close(CloseCode.UNAUTHORIZED, error, discard=True)


def _recheck_all(session: Session) -> Awaitable[None] | None:
    return session.recheck(None)


def _has_expired(login: Login) -> bool:
    return login.expires_at is not None and login.expires_at <= time()


def _close_unverified(session: Session, problem: str) -> None:
    session.close(CloseCode.UNVERIFIED, Unavailable(problem), discard=True)
