"""The memory of what was revoked: what was signed before then no longer counts."""

from collections.abc import Callable
from time import time
from typing import Final, NamedTuple

from dwsps_channels.core.notice import EVERYTHING, Dated, Disconnect, Permission, Verify
from dwsps_channels.protocol.topics import contexts

MAX_REVOCATIONS: Final = 100_000


class _Holder(NamedTuple):
    """A user, or a session, or everybody."""

    user: str = ""
    session: str = ""


EVERYBODY: Final = _Holder()

_Times = dict[tuple[_Holder, str], float]


class Revocations:
    """Knows until when what was signed for a user, or in a session, is revoked. Times are seconds since the epoch.

    A revocation of a topic concerns subscriptions to it, to what is below it, and to what is above it: these receive its
    messages as well. It is forgotten after ``max_age`` seconds: nothing that was signed before is valid for longer. If
    there are more than ``limit``, the oldest revokes what everybody had by then, so that none is lost.
    """

    def __init__(
        self, max_age: float, limit: int = MAX_REVOCATIONS, clock: Callable[[], float] = time
    ) -> None:
        self._max_age = max_age
        self._clock = clock
        self._limit = limit
        # When the topic was revoked; "": all topics. Both in the order of their times, as far as clocks agree.
        self._revoked: _Times = {}
        # When something below the topic was.
        self._revoked_below: _Times = {}
        # What everybody had by then is revoked.
        self._all_until = float("-inf")
        self.unknown_until = float("-inf")
        """The end of the time in which notices may have been missed: older signatures may be revoked."""

    def __len__(self) -> int:
        """Return the number of entries in memory."""
        return len(self._revoked) + len(self._revoked_below)

    def revoke(self, at: float, *, user: str = "", session: str = "", topic: str = "") -> None:
        """Revoke what the user, or the session, has from before ``at``; with neither: what everybody has.

        Args:
            at: when it was revoked.
            user: the primary key, as text.
            session: as in ``Identity.session``.
            topic: a valid topic; empty: all topics.
        """
        holder = _Holder(user, session)
        if topic:
            itself, *above = contexts(topic)
            self._note(self._revoked, (holder, itself), at)
            for each in above:
                self._note(self._revoked_below, (holder, each), at)
        elif holder == EVERYBODY:
            self._all_until = max(self._all_until, at)
        else:
            self._note(self._revoked, (holder, ""), at)

    def heed(self, dated: Dated) -> None:
        """Revoke what a notice of the server's processes says."""
        if dated.notice is EVERYTHING:
            self.unknown_until = max(self.unknown_until, dated.at)
        match dated.notice:
            case Disconnect(user=user, session=session):
                self.revoke(dated.at, user=user, session=session)
            case Permission(user=user, topic=topic):
                self.revoke(dated.at, user=user, topic=topic)
            case Verify(user=user, session=session, revokes=True):
                self.revoke(dated.at, user=user, session=session)

    def is_revoked(self, signed_at: float, *, user: str, session: str, topic: str) -> bool:
        """Tell whether what was signed then for a subscription to a valid ``topic`` no longer counts.

        Args:
            signed_at: when.
            user: the primary key of the client's user, as text; empty: there is no user.
            session: the client's, as in ``Identity.session``; empty: there is no session.
            topic: of the subscription.
        """
        if signed_at <= self._all_until:
            return True
        if not self._revoked:
            return False
        never = float("-inf")
        places = ("", *contexts(topic))
        for holder in {EVERYBODY, _Holder(user=user), _Holder(session=session)}:
            if signed_at <= self._revoked_below.get((holder, topic), never):
                return True
            if any(signed_at <= self._revoked.get((holder, place), never) for place in places):
                return True
        return False

    def _note(self, times: _Times, key: tuple[_Holder, str], at: float) -> None:
        # At the end, since the oldest are forgotten first.
        times[key] = max(at, times.pop(key, at))
        now = self._clock()
        while times:
            oldest = next(iter(times))
            is_one_too_many = len(times) > self._limit
            if not is_one_too_many and now - times[oldest] <= self._max_age:
                return
            revoked_at = times.pop(oldest)
            if is_one_too_many:
                self._all_until = max(self._all_until, revoked_at)
