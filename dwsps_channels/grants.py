"""Grants: what a view has allowed, signed for the reader of its page.

The policy is not asked about a subscribe that brings a grant (docs/reference/protocol.md, "Access"). In a template
`{% dwsps_grant %}` makes one.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterator
from datetime import timedelta
from hashlib import sha256
from inspect import isawaitable
from time import time
from typing import Any, Final

import msgspec
from django.contrib.sessions.backends.signed_cookies import SessionStore as CookieSession
from django.core import signing
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from msgspec import Struct

from dwsps_channels.conf import conf
from dwsps_channels.core.identity import Identity, hash_session_key
from dwsps_channels.core.policy import Answer, Decision, Policy
from dwsps_channels.core.revocations import Revocations
from dwsps_channels.lazy import is_loaded
from dwsps_channels.logs.throttle import LogThrottle
from dwsps_channels.protocol.errors import Forbidden
from dwsps_channels.protocol.topics import check, contexts
from dwsps_channels.threads.pools import ask

__all__ = ["make_grant"]

logger = logging.getLogger("dwsps_channels.grants")

_SALT: Final = "dwsps_channels.grants"

# Of a longest topic: what is longer is no grant, and is not looked at.
MAX_LENGTH: Final = 512

# Seconds between two lines about gaps. A channel layer that is overrun has some all the time.
WARNING_INTERVAL: Final = 3600.0


def make_grant(
    topic: str,
    *,
    request: HttpRequest | None = None,
    user: Any = None,
    session_key: str | None = None,
    expires: float | timedelta | None = None,
) -> str:
    """Sign that a user, or the visitor with a session, may subscribe to ``topic`` and to what is below it.

    Call it after you have decided that they may: the server does not ask the policy about it any more. `disconnect` and
    `permission_changed` revoke it, and so does a change of the user's password.

    Give one of `request`, `user` and `session_key`. With the latter two it makes no query, so an async view may call it.

    Args:
        topic: such as `"orders.42"`.
        request: it is for the user who is logged in; otherwise for the visitor with the session. If the visitor has
            no session, one is created.
        user: a Django user who is logged in.
        session_key: of a visitor who is not logged in, `request.session.session_key`.
        expires: seconds, or a `timedelta`; at most `DWSPS["GRANT_MAX_AGE"]`, which is the default.

    Returns:
        ASCII letters, digits, `-`, `_` and `:`. For a topic of 30 characters it has 130.

    Raises:
        InvalidTopic: the topic does not fit the grammar.
        ValueError: not one of the three is given; the user is not logged in; or the expiry is not within its bounds.
        ImproperlyConfigured: the request has neither a user nor a session that is kept on the server.
        SynchronousOnlyOperation: an async view has called it with a request.
    """
    check(topic)
    if [request, user, session_key].count(None) != 2:
        raise ValueError("a grant is for a request's reader, a user or a session key: give one")
    began = time()
    if request is not None:
        user, session_key = _reader_of(request)
        began = getattr(request, "dwsps_began", began)
    if session_key == "":
        raise ValueError("the session key is empty: create the session first")
    if session_key is not None:
        holder = _digest("session", hash_session_key(session_key))
    elif not getattr(user, "is_authenticated", False) or getattr(user, "pk", None) is None:
        raise ValueError(
            "a grant for a user needs one who is logged in: give a visitor's session key instead"
        )
    else:
        holder = next(_user_digests(user))
    grant = _Grant(topic, holder, int(began * 1000), int(_seconds(expires) * 1000))
    return signing.Signer(salt=_SALT).sign(signing.b64_encode(_encode(grant)).decode())


def _reader_of(request: Any) -> tuple[Any, str | None]:
    """Return the user, or the session key, of the reader that a request comes from."""
    user = getattr(request, "user", None)
    if getattr(user, "is_authenticated", False):
        return user, None
    session = getattr(request, "session", None)
    if session is None or isinstance(session, CookieSession):
        raise ImproperlyConfigured(
            "a grant needs a user who is logged in, or a session that is kept on the server"
        )
    session.get("")  # loads it: the key of one that is gone is dropped
    if session.session_key is None:
        session.create()
    return None, session.session_key


def _seconds(expires: float | timedelta | None) -> float:
    longest = conf.GRANT_MAX_AGE
    if expires is None:
        return longest
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    if not 0 < seconds <= longest:
        raise ValueError(
            f"a grant expires after more than 0 and at most {longest:g} seconds, as DWSPS['GRANT_MAX_AGE'] says: not {seconds:g}"
        )
    return seconds


class _Grant(Struct, frozen=True, array_like=True):
    topic: str
    holder: bytes
    """The digest of the user, or of the session."""
    signed_at: int
    """Milliseconds since the epoch."""
    lifetime: int
    """Milliseconds."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Grant).decode


class GrantChecker:
    """Decides what clients may subscribe to because of a grant; ``check`` is a ``CheckGrant`` of core.

    A grant that counts no longer, because it has expired or was revoked, is as none: the policy decides. A grant that
    never counted, because somebody else has signed it, or it is somebody else's or another topic's, is refused.
    """

    def __init__(self, policy: Policy, revocations: Revocations) -> None:
        self._policy = policy
        self._revocations = revocations
        self._throttle = LogThrottle(WARNING_INTERVAL)

    def check(self, identity: Identity, topic: str, grant: str) -> Answer | Awaitable[Answer]:
        """Return whether ``identity`` may subscribe to a valid ``topic``. No query is made but the policy's.

        Raises:
            Forbidden: the grant is not for this client and topic.
        """
        user = identity.user
        if not is_loaded(user):
            # To look at it may be a query.
            return self._check_in_thread(identity, topic, grant)
        return self._decide(identity, topic, _read(identity, topic, grant))

    def _warn_of_gap(self) -> None:
        if self._throttle.is_due():
            logger.warning(
                "grants from before a gap in the server's messages no longer count, and the policy is asked instead: "
                "a revocation may have been among what was lost"
            )

    async def _check_in_thread(self, identity: Identity, topic: str, grant: str) -> Answer:
        found = await ask(_read, identity, topic, grant)
        answer = self._decide(identity, topic, found)
        return await answer if isawaitable(answer) else answer

    def _decide(self, identity: Identity, topic: str, grant: _Grant) -> Answer | Awaitable[Answer]:
        signed_at = grant.signed_at / 1000
        left = signed_at + min(grant.lifetime / 1000, conf.GRANT_MAX_AGE) - time()
        if left <= 0:
            problem = "the grant has expired"
        elif self._revocations.is_revoked(
            signed_at, user=_user_id(identity), session=identity.session, topic=topic
        ):
            problem = "the grant was revoked"
            if signed_at <= self._revocations.unknown_until:
                problem = "the grant may have been revoked"
                self._warn_of_gap()
        else:
            return Decision(True, recheck_after=left)
        answer = self._policy.may_subscribe(identity, topic)
        return _await(answer, problem) if isawaitable(answer) else _explained(answer, problem)


def _explained(answer: Answer, problem: str) -> Answer:
    """Return the policy's answer; if it is a no without a reason, with what is wrong with the grant."""
    if answer or (isinstance(answer, Decision) and answer.reason):
        return answer
    return Decision(False, problem)


async def _await(answer: Awaitable[Answer], problem: str) -> Answer:
    return _explained(await answer, problem)


def _read(identity: Identity, topic: str, grant: str) -> _Grant:
    """Return the grant, which is for this client and topic. It may have expired, or be revoked.

    Raises:
        Forbidden: it is not, or somebody else has signed it.
    """
    try:
        if len(grant) > MAX_LENGTH:
            raise signing.BadSignature
        found = _decode(signing.b64_decode(signing.Signer(salt=_SALT).unsign(grant).encode()))
    except (signing.BadSignature, msgspec.MsgspecError, ValueError):
        problem = "the grant is forged: this server has not signed it"
    else:
        if found.holder in _digests(identity):
            if found.topic in contexts(topic):
                return found
            problem = "the grant is for another topic"
        elif identity.is_authenticated or identity.session:
            problem = "the grant is another user's, or from before a login or a change of password or rights"
        else:
            problem = "the connection has neither a user nor a session, and the grant is for one"
    raise Forbidden(f"subscribe to '{topic}'", problem)


def _user_id(identity: Identity) -> str:
    return "" if identity.user_id is None else str(identity.user_id)


def _digests(identity: Identity) -> Iterator[bytes]:
    """Yield the digests of those who are at the other end."""
    if identity.is_authenticated:
        yield from _user_digests(identity.user)
    if identity.session:
        yield _digest("session", identity.session)


def _user_digests(user: Any) -> Iterator[bytes]:
    """Yield the user's digest; then those from before a change of ``SECRET_KEY``, as its fallbacks make them.

    A view may have allowed something because its reader was staff, so a change of that makes another digest.
    """
    rights = (
        f"{bool(getattr(user, 'is_staff', False))} {bool(getattr(user, 'is_superuser', False))}"
    )
    get_hash = getattr(user, "get_session_auth_hash", None)
    yield _digest("user", str(user.pk), rights, get_hash() if get_hash else "")
    if fallback_hashes := getattr(user, "get_session_auth_fallback_hash", None):
        for each in fallback_hashes():
            yield _digest("user", str(user.pk), rights, each)


def _digest(*parts: str) -> bytes:
    return sha256("\0".join(parts).encode()).digest()[:16]
