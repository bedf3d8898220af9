"""The registry of the sessions of one process."""

from collections.abc import Collection, Hashable, Iterator
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


class Sessions:
    """Finds sessions by client and by user, without a look at the others. Iterates over all of them."""

    def __init__(self, find_user: FindUser = user_id_of) -> None:
        """``find_user`` gives the key of a client's user, in place of its primary key."""
        self._find_user = find_user
        self._by_client: dict[str, Session] = {}
        # Each user's sessions, by client; an empty one is not kept. And each client's user, as it was when it came.
        self._by_user: dict[Hashable, dict[str, Session]] = {}
        self._users: dict[str, Hashable] = {}

    def __len__(self) -> int:
        return len(self._by_client)

    def __iter__(self) -> Iterator[Session]:
        """Iterate over the sessions of this moment: they may leave meanwhile."""
        return iter(list(self._by_client.values()))

    def add(self, session: Session) -> None:
        """Register ``session``, until ``discard``."""
        client = session.identity.client
        self._by_client[client] = session
        if (user := self._user_of(session.identity)) is not None:
            self._users[client] = user
            self._by_user.setdefault(user, {})[client] = session

    def discard(self, session: Session) -> None:
        """Forget ``session``, if it is registered."""
        client = session.identity.client
        self._by_client.pop(client, None)
        if client in self._users:
            user = self._users.pop(client)
            sessions = self._by_user[user]
            del sessions[client]
            if not sessions:
                del self._by_user[user]

    def get(self, client: str) -> Session | None:
        """Return the session of the client with this id."""
        return self._by_client.get(client)

    def of_user(self, user: Hashable) -> Collection[Session]:
        """Return the sessions of the Django user with this primary key."""
        return list(self._by_user.get(user, {}).values())

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

    def _user_of(self, identity: Identity) -> Hashable | None:
        # A user of the project may be unable to tell its key here, or have one that cannot be hashed: then its sessions
        # are not found by user.
        with suppress(Exception):
            user = self._find_user(identity)
            hash(user)
            return user
        return None
