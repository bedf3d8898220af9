"""The registry of the sessions of one process."""

from collections.abc import Collection, Iterator
from contextlib import suppress

from msgspec import Struct

from dwsps_channels.core.identity import FindUser, Identity, user_id_of
from dwsps_channels.core.session import Session
from dwsps_channels.protocol.messages import Reset, encode
from dwsps_channels.protocol.timestamps import now


class SessionStats(Struct, frozen=True):
    """The counters of the registry."""

    open: int
    """Sessions, of peers and workers too."""
    users: int
    """Django users who have one or more."""
    buffered_bytes: int
    """Bytes queued for clients that are behind, all together."""


class _Index:
    """Sessions by a key that many may have, and that may change."""

    def __init__(self) -> None:
        # By key the sessions by client; an empty one is not kept. And the key that each client is under.
        self._sessions: dict[str, dict[str, Session]] = {}
        self._keys: dict[str, str] = {}

    def __len__(self) -> int:
        """Return the number of keys that have sessions."""
        return len(self._sessions)

    def put(self, session: Session, key: str) -> None:
        """Have ``session`` under ``key`` alone; an empty key is none."""
        client = session.identity.client
        if self._keys.get(client, "") == key:
            return
        self.discard(session)
        if key:
            self._keys[client] = key
            self._sessions.setdefault(key, {})[client] = session

    def discard(self, session: Session) -> None:
        client = session.identity.client
        if client in self._keys:
            key = self._keys.pop(client)
            sessions = self._sessions[key]
            del sessions[client]
            if not sessions:
                del self._sessions[key]

    def get(self, key: str) -> Collection[Session]:
        return list(self._sessions.get(key, {}).values())


class Sessions:
    """Finds sessions by client, user and Django session, without a look at the others. Iterates over all of them."""

    def __init__(self, find_user: FindUser = user_id_of) -> None:
        """``find_user`` gives the key of a client's user, in place of its primary key.

        It may raise if that is not known yet: it is asked again when somebody looks for a user.
        """
        self._find_user = find_user
        self._by_client: dict[str, Session] = {}
        self._by_user = _Index()
        # Those whose user was not known when they came.
        self._unknown: dict[str, Session] = {}
        self._by_session = _Index()

    def __len__(self) -> int:
        return len(self._by_client)

    def __iter__(self) -> Iterator[Session]:
        """Iterate over the sessions of this moment: they may leave meanwhile."""
        return iter(list(self._by_client.values()))

    def add(self, session: Session) -> None:
        """Register ``session``, until ``discard``."""
        self._by_client[session.identity.client] = session
        self._put(session)

    def identified(self, session: Session) -> None:
        """Take note that the identity of ``session`` was replaced."""
        if session.identity.client in self._by_client:
            self._put(session)

    def _put(self, session: Session) -> None:
        self._put_by_user(session)
        self._by_session.put(session, session.identity.session)

    def _put_by_user(self, session: Session) -> None:
        client, key = session.identity.client, ""
        self._unknown.pop(client, None)
        try:
            key = self._key_of(session.identity)
        except Exception:
            self._unknown[client] = session
        self._by_user.put(session, key)

    def discard(self, session: Session) -> None:
        """Forget ``session``, if it is registered."""
        self._by_client.pop(session.identity.client, None)
        self._unknown.pop(session.identity.client, None)
        self._by_user.discard(session)
        self._by_session.discard(session)

    def get(self, client: str) -> Session | None:
        """Return the session of the client with this id."""
        return self._by_client.get(client)

    def of_user(self, user: object) -> Collection[Session]:
        """Return the sessions of the Django user with this primary key, or with this text of it."""
        for session in list(self._unknown.values()):
            self._put_by_user(session)
        return self._by_user.get(str(user))

    def of_session(self, session: str) -> Collection[Session]:
        """Return the sessions of a Django session: see ``Identity.session``."""
        return self._by_session.get(session)

    def reset(self, cursor: str) -> None:
        """Tell the clients that the log lost its continuity. ``cursor`` is where it begins for them now."""
        frame = encode(Reset(now(), cursor))
        for session in self:
            session.reset(frame)

    def stats(self) -> SessionStats:
        """Return the counters as they are now."""
        return SessionStats(
            open=len(self._by_client),
            users=len(self._by_user),
            buffered_bytes=sum(session.buffered_bytes for session in self),
        )

    def user_of(self, identity: Identity) -> str:
        """Return the key of the client's user, as text; empty: there is no user, or it is not known yet."""
        with suppress(Exception):
            return self._key_of(identity)
        return ""

    def _key_of(self, identity: Identity) -> str:
        user = self._find_user(identity)
        return "" if user is None else str(user)
