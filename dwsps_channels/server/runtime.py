"""The composition root: from the settings to this process's hub, broker and policy, and their start and end.

One runtime a process, on the event loop that serves. ASGI servers differ in what they tell an application of
their start and end (Daphne: nothing), so it is started by the first session or HTTP request, and hooks itself
into the server's end.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from uuid import uuid4

from django.core.handlers.asgi import ASGIHandler
from django.core.signals import request_started
from msgspec import Struct

from dwsps_channels import __version__
from dwsps_channels.broker.backends import configured_backend
from dwsps_channels.conf import conf
from dwsps_channels.connections.admission import Admission
from dwsps_channels.connections.django_session import session_key_of
from dwsps_channels.connections.servers.options import (
    warn_of_daphne,
    warn_of_uvicorn,
    warn_of_workers,
)
from dwsps_channels.connections.stats import ConnectionStats, connection_stats
from dwsps_channels.connections.transports.batch_writer import BatchWriter
from dwsps_channels.core.broker import BrokerStats
from dwsps_channels.core.identity import Identity, Role, hash_session_key
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.node import Node, NodeStats
from dwsps_channels.core.notice import MAX_NOTICES, Dated
from dwsps_channels.core.observer import Observer
from dwsps_channels.core.peer_session import PeerSession
from dwsps_channels.core.revocations import Revocations
from dwsps_channels.core.services import Services
from dwsps_channels.core.session import Session
from dwsps_channels.core.sessions import Sessions, SessionStats
from dwsps_channels.core.tail import Tail
from dwsps_channels.core.transport import Transport
from dwsps_channels.core.worker_session import (
    MAX_PAGE_BYTES,
    PublisherSession,
    ReaderSession,
    WorkerSession,
)
from dwsps_channels.grants import GrantChecker
from dwsps_channels.lazy import is_loaded
from dwsps_channels.peering.inbound.accepted import AcceptedPeers
from dwsps_channels.peering.inbound.authentication import Authenticated
from dwsps_channels.peering.inbound.reporter import InboundReporter
from dwsps_channels.policies import AllowAll, ThreadOffloadingPolicy
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.protocol.messages import encode
from dwsps_channels.protocol.peer_messages import Hello
from dwsps_channels.server.credentials import Credentials
from dwsps_channels.server.logins import login_of
from dwsps_channels.server.rechecker import Rechecker
from dwsps_channels.server.shutdown import before_shutdown
from dwsps_channels.server.signal_observer import SignalObserver
from dwsps_channels.server.turns import RecheckStats
from dwsps_channels.threads.pools import drop_waiting

logger = logging.getLogger("dwsps_channels")

# All within 10 s, the time that service managers commonly give: sessions are told and their close handshakes
# awaited, then receivers of signals get what is left for them.
SESSIONS_GRACE = 6.0
EVENTS_GRACE = 1.0

# Of the first, what the broker may take to answer clients' publishes; and, after all of it, workers to read what is left.
REPLIES_GRACE = 3.0
WORKERS_GRACE = 2.0
DRAIN_GRACE = SESSIONS_GRACE + EVENTS_GRACE + WORKERS_GRACE

# What a forwarded message may have beyond what its publisher sent: origin, sequence, flag, timestamp.
FORWARDING_BYTES = 1024

# What a request for a page may have, whatever clients may send.
FEED_REQUEST_BYTES = 1024


SESSIONS: Final[dict[Role, type[Session]]] = {
    Role.CLIENT: Session,
    Role.PEER: PeerSession,
    Role.PUBLISHER: PublisherSession,
    Role.READER: ReaderSession,
    Role.WORKER: WorkerSession,
}


class RuntimeStats(Struct, frozen=True):
    """The counters of one process, by room."""

    node: NodeStats
    broker: BrokerStats
    sessions: SessionStats
    connections: ConnectionStats
    rechecks: RecheckStats
    signals_dropped: int
    """Events that receivers of signals were too slow for."""


class Runtime:
    """The parts that the sessions of one process share."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self.limits = conf.limits
        policy = conf.policy_class()
        self.policy = policy if type(policy) is AllowAll else ThreadOffloadingPolicy(policy)
        self._revocations = Revocations(conf.GRANT_MAX_AGE)
        self.signals = SignalObserver()
        self.observers: list[Observer] = [self.signals]
        """Of all sessions."""
        self.backend = configured_backend()
        """Made the broker."""
        self.broker = self.backend.make_broker()
        self.batch_writer = BatchWriter(self.loop)
        """Of the connections that are written on directly."""
        self.node = Node(
            uuid4().hex,
            self.broker,
            tail=Tail(conf.retention, conf.history),
            replay_limits=conf.replay_limits,
            on_reset=lambda: self.sessions.reset(self.node.cursor),
            on_exclude=self._close_sessions,
            on_notice=self.heed,
            on_begin=self._on_begin,
        )
        self.draining = False
        """Set once the server is going away: no session is accepted any more."""
        self.has_left = False
        """Set once the broker takes nothing more from this process."""
        self.credentials = Credentials(conf.authenticator)
        """Checks what clients with tokens, peers, and this server's own code in other processes present."""
        self.admission = Admission(conf.MAX_CONNECTIONS, conf.MAX_CONNECTIONS_PER_ADDRESS)
        """The limit on the number of clients."""
        self._is_server_known = False
        # Set once the log has begun: from then on notices reach this process.
        self._has_begun = False
        self.sessions = Sessions(_loaded_user_id)
        """The sessions of this process."""
        self.rechecker = Rechecker(
            self.sessions,
            login_of,
            getattr(self.policy, "forget", lambda user: None),
            getattr(self.policy, "forget_rules", lambda: None),
            watches_expiry=conf.REVOKE,
        )
        """Lets changes of access take effect on them."""
        self._services = Services(
            self.node,
            self.policy,
            self.observers,
            gather=asyncio.gather,
            pause=asyncio.sleep,
            find_user=_loaded_user_id,
            check_grant=GrantChecker(self.policy, self._revocations).check,
            scheduler=self.rechecker,
            on_identity=self._identified,
        )
        self._accepted_peers = AcceptedPeers(self.sessions, conf.TIMINGS.PEER_POLL_INTERVAL)
        self._inbound = InboundReporter()
        # The sessions that were closed and whose connections are not gone yet.
        self._closing: set[Session] = set()
        self._closed = asyncio.Event()
        self._drained: asyncio.Task[None] | None = None
        self._started = self.loop.create_task(self._start())

    async def started(self) -> None:
        """Wait until the broker receives, so that a first subscriber misses nothing."""
        if self._started.done():
            self._started.result()
        else:
            await asyncio.shield(self._started)

    def look_at_server(self, send: Any, *, is_fastlane: bool) -> None:
        """Warn of what the server under the ASGI ``send`` was started without; of the first connection alone.

        ``is_fastlane``: on the fast lane, which bounds messages by itself.
        """
        if not self._is_server_known:
            self._is_server_known = True
            warn_of_uvicorn(send, self.limits, holds_messages=not is_fastlane)
            if not self.backend.joins_processes:
                warn_of_workers(send, self.backend.if_several)

    def limits_of(self, role: Role) -> Limits:
        """Return the caps on a connection of this role."""
        match role:
            case Role.CLIENT:
                return self.limits
            case Role.PEER:
                # What a client there could send has a name and a flag by now.
                return replace(
                    self.limits,
                    message_bytes=self.limits.message_bytes + FORWARDING_BYTES,
                    rate=None,
                    rate_bytes=None,
                )
            case Role.PUBLISHER | Role.READER:
                return replace(self.limits, rate=None, rate_bytes=None)
            case Role.WORKER:
                # Half of it is for a page, the other half for what was not read before.
                return replace(
                    self.limits,
                    message_bytes=self.limits.message_bytes + FEED_REQUEST_BYTES,
                    buffered_bytes=self.limits.buffered_bytes + 2 * MAX_PAGE_BYTES,
                    rate=None,
                    rate_bytes=None,
                )

    def open_session(
        self,
        transport: Transport,
        user: object,
        authenticated: Authenticated,
        limits: Limits,
        django_session: Any = None,
    ) -> Session:
        """Open a session on an accepted connection. Give it back with ``close_session`` when that is gone.

        ``django_session``: the store in the ASGI scope, if a middleware has loaded one.
        """
        session_key = session_key_of(django_session)
        token = authenticated.token
        session = SESSIONS[authenticated.role](
            self._services,
            transport,
            Identity(
                client=secrets.token_hex(8),
                # A token counts, also beside the cookie of another user.
                user=user if token is None else token.user,
                role=authenticated.role,
                peer=authenticated.peer.name if authenticated.peer else None,
                session=hash_session_key(session_key) if session_key else "",
            ),
            limits,
            authenticated.authenticator,
        )
        self.sessions.add(session)
        session.open()
        login = None
        if authenticated.role is Role.CLIENT:
            login = login_of(user, django_session) if token is None else login_of(token.user)
        self.rechecker.open(session, login)
        if token is not None:
            session.expire_at(token.expires_at)
            if self.was_disconnected(token.user, authenticated.began):
                session.close(
                    CloseCode.UNVERIFIED, Unavailable("the user was disconnected"), discard=True
                )
        if authenticated.peer is not None:
            self._accepted_peers.add(session, authenticated.peer)
            if isinstance(session, PeerSession):
                self._inbound.add(session, authenticated.peer.pk, authenticated.address)
        if authenticated.server_id is not None:
            transport.send(
                encode(
                    Hello(
                        server=conf.SERVER_NAME,
                        server_id=authenticated.server_id,
                        version=__version__,
                    )
                )
            )
        if self.draining or self.node.is_excluded:
            self._close(session)  # that began while the connection was being accepted
        return session

    def close_session(self, session: Session, handled: asyncio.Future[None] | None = None) -> None:
        """Close a session whose connection is gone, and forget it once its last message was ``handled``; ``None``: it was."""
        self._accepted_peers.discard(session)
        self._inbound.discard(session.identity.client)
        session.closed()
        if handled is None or handled.done():
            self._forget(session)
        else:
            # The policy may still be deciding about a publish. A revocation until then is about that as well.
            handled.add_done_callback(lambda _: self._forget(session))

    def _forget(self, session: Session) -> None:
        self.sessions.discard(session)
        self.rechecker.discard(session)
        self._closing.discard(session)
        if not self._closing:
            self._closed.set()

    def stats(self) -> RuntimeStats:
        """Return the counters of this process as they are now."""
        return RuntimeStats(
            node=self.node.stats(),
            broker=self.broker.stats(),
            sessions=self.sessions.stats(),
            connections=connection_stats(self.admission),
            rechecks=self.rechecker.stats(),
            signals_dropped=self.signals.dropped,
        )

    async def drain(self) -> None:
        """Send every client away, to come back to whoever serves next, and end what was started."""
        if self._drained is None:
            self._drained = self.loop.create_task(self._drain())
        await asyncio.shield(self._drained)

    async def _start(self) -> None:
        before_shutdown(self.drain)
        warn_of_daphne(self.limits)
        await self.broker.start(self.node)

    async def _drain(self) -> None:
        self.draining = True
        ends = self.loop.time() + SESSIONS_GRACE + EVENTS_GRACE
        if self.sessions:
            logger.info("sessions closed, as the server is going away: %d", len(self.sessions))
        clients = [each for each in self.sessions if not isinstance(each, WorkerSession)]
        # Their acks are to come out: the broker has, or will have, what they have published.
        replies = [sent for each in clients if (sent := each.stop_receiving()) is not None]
        if replies:
            await asyncio.wait([*map(asyncio.ensure_future, replies)], timeout=REPLIES_GRACE)
        for session in clients:
            self._close(session)
        await self._until_closed(ends - EVENTS_GRACE - self.loop.time())
        self._accepted_peers.stop()
        drop_waiting()
        await self.rechecker.stop()
        # Receivers may publish that somebody has left: the broker stops after them.
        await asyncio.gather(
            self.signals.finish(ends - self.loop.time()),
            self._inbound.stop(EVENTS_GRACE),
        )
        self.has_left = True
        await self.broker.stop()
        await self._drain_workers()

    async def _drain_workers(self) -> None:
        """Let the workers read the log to its end: nothing is published any more."""
        for session in self.sessions:
            if isinstance(session, WorkerSession):
                self._closing.add(session)
                session.finish()
        await self._until_closed(WORKERS_GRACE)
        self._close_sessions()

    def heed(self, dated: Dated) -> None:
        """Let a notice take effect in this process."""
        self._revocations.heed(dated)
        self.rechecker.heed(dated.notice)

    def was_disconnected(self, user: object, since: float) -> bool:
        """Return whether ``user`` was disconnected after ``since``, in the event loop's time."""
        return self.rechecker.was_disconnected(self.sessions.user_of(Identity("", user)), since)

    def _on_begin(self, notices: Sequence[Dated]) -> None:
        if len(notices) >= MAX_NOTICES:
            # The log has dropped older ones.
            self._revocations.revoke(min(dated.at for dated in notices))
        for dated in notices:
            self._revocations.heed(dated)
        if self._has_begun or self.sessions:
            self.rechecker.missed()
        self._has_begun = True

    def _identified(self, session: Any) -> None:
        self.sessions.identified(session)
        self.rechecker.identified(session)

    def _close_sessions(self) -> None:
        for session in self.sessions:
            self._close(session)

    def _close(self, session: Session) -> None:
        self._closing.add(session)
        session.close(CloseCode.GOING_AWAY, Unavailable("the server is going away"))

    async def _until_closed(self, timeout: float) -> None:
        """Wait until the connections of the sessions that were closed are gone."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._closing:
                    self._closed.clear()
                    await self._closed.wait()


def _loaded_user_id(identity: Identity) -> Hashable | None:
    user = identity.user
    if not is_loaded(user):
        # To load it, with a query or worse, would block the event loop. The policy may do so, in a thread.
        raise LookupError("nobody has loaded the user")
    user_id: Hashable | None = identity.user_id
    return user_id


_current: Runtime | None = None


async def obtain() -> Runtime:
    """Return the runtime of this event loop; start it if it was not."""
    global _current
    loop = asyncio.get_running_loop()
    if _current is None or _current.loop is not loop:
        _current = Runtime()
    await _current.started()
    return _current


def current() -> Runtime | None:
    """Return the runtime of this process, in any thread; ``None``: the process does not serve (yet, or any more)."""
    if _current is None or not _current.loop.is_running():
        return None
    # A forked process has the parent's loop as it was, running as it seems: nothing runs it there.
    return _current if _current.pid == os.getpid() else None


def start_with_first_request() -> None:
    """Have the runtime started by the first HTTP request, so that a view can publish before anybody connected."""
    request_started.connect(_start_with_request, sender=ASGIHandler)


async def _start_with_request(**kwargs: Any) -> None:
    request_started.disconnect(_start_with_request, sender=ASGIHandler)
    try:
        await obtain()
    except Exception:
        # The page is served all the same; each websocket connection will say it again.
        logger.exception("the publish/subscribe server could not be started")
