"""The Channels consumer: a session behind ASGI."""

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any, Final

from channels.consumer import AsyncConsumer
from django.db import Error as DatabaseError

from dwsps_channels.conf import conf
from dwsps_channels.connections import origins
from dwsps_channels.connections.admission import ConnectionLimitReached, Place
from dwsps_channels.connections.django_session import loaded_session_in
from dwsps_channels.connections.fastlane.takeover import EXTENSION, ConnectionTakeover
from dwsps_channels.connections.handshakes import (
    ClientGone,
    ReplayedReceive,
    reject,
    unanswered,
    while_connected,
)
from dwsps_channels.connections.servers.daphne import DaphneTransport
from dwsps_channels.connections.servers.detection import connection_of, transport_on
from dwsps_channels.connections.throttle import TooManyFailures
from dwsps_channels.connections.transports import closing
from dwsps_channels.connections.transports.asgi import AsgiTransport
from dwsps_channels.connections.transports.server_connection import ServerConnection
from dwsps_channels.core.identity import Role
from dwsps_channels.core.session import Session
from dwsps_channels.core.transport import Transport
from dwsps_channels.logs.tokens import hide_tokens
from dwsps_channels.peering.inbound import authentication
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.protocol.text import printable
from dwsps_channels.server import runtime
from dwsps_channels.server.credentials import ConnectionAuthenticator
from dwsps_channels.threads.pools import Busy
from dwsps_channels.tokens.places import TooManyTokens
from dwsps_channels.tokens.project import AuthenticatorFailed

logger = logging.getLogger("dwsps_channels.consumers")

# After so many frames of one client the others have their turn: a server's queue may hold thousands, and taking from it
# never gives way to other tasks.
FRAMES_BETWEEN_YIELDS: Final = 64


class PubSubConsumer(AsyncConsumer):
    """Serves one websocket connection with the publish/subscribe protocol of docs/reference/protocol.md.

    Route to it with ``PubSubConsumer.as_asgi()``. Behind ``AuthMiddlewareStack`` the policy knows the user; without
    it no database is touched.

    It is called by the server as any consumer is, but does without Channels' dispatch: that takes a channel layer
    channel for each connection, and a task and a hop to a thread for each frame.
    """

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> Any:
        """Make the ASGI application. The process that makes it serves, so it can publish from its first request on."""
        runtime.start_with_first_request()
        hide_tokens()
        return super().as_asgi(**initkwargs)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        self.base_send: Any = send
        await receive()  # websocket.connect
        if isinstance(receive, ReplayedReceive):
            receive = receive.receive
        refusal = origins.refusal(scope, conf.ALLOWED_ORIGINS)
        if refusal is not None:
            logger.warning("connection from %s refused: %s", _address(scope), printable(refusal))
            await reject(scope, send, 403)
            return
        server = await runtime.obtain()
        if server.draining or server.node.is_excluded:
            await reject(scope, send, 503)
            return
        try:
            authenticated = await _authenticate(scope, receive, server)
        except ClientGone:
            return
        except (AuthenticatorFailed, Busy, DatabaseError) as error:
            await unanswered.reject(scope, send, error)
            return
        except TooManyTokens:
            await reject(scope, send, 429)
            return
        except TooManyFailures as error:
            # Once for each run of them: a flood of false secrets is to fill no log.
            level = logging.WARNING if error.is_first else logging.DEBUG
            logger.log(level, "connections from %s refused: %s", _host(scope), error)
            await reject(scope, send, 429)
            return
        if authenticated is None:
            await reject(scope, send, 403)
            return
        try:
            # The server's own connections, a worker's and its peers', do not depend on how many clients there are.
            place = (
                server.admission.enter(_host(scope)) if authenticated.role is Role.CLIENT else None
            )
        except ConnectionLimitReached:
            await reject(scope, send, 503)
            return
        takeover: ConnectionTakeover | None = (scope.get("extensions") or {}).get(EXTENSION)
        try:
            await send({"type": "websocket.accept"})
            server.look_at_server(send, is_fastlane=takeover is not None)
            if takeover is not None:
                # From here on the connection is the session's, and this call need not wait for its end.
                _take_over(takeover, server, scope, authenticated, place)
                place = None
                return
            await self._serve(server, authenticated, receive)
        finally:
            if place is not None:
                place.leave()

    async def _serve(
        self, server: "runtime.Runtime", authenticated: authentication.Authenticated, receive: Any
    ) -> None:
        limits = server.limits_of(authenticated.role)
        connection = connection_of(self.base_send)
        transport = transport_on(
            connection,
            self.base_send,
            server.batch_writer,
            limits.buffered_bytes,
            lambda: session.on_slow_consumer(),
            lambda is_behind: session.on_backpressure(is_behind),
        )
        session = server.open_session(
            transport,
            self.scope.get("user"),
            authenticated,
            limits,
            loaded_session_in(self.scope),
        )
        transport.start()
        try:
            await _receive(session, transport, connection, receive)
        except asyncio.CancelledError:
            # Daphne ends so: closing its clients in time is up to us.
            session.close(CloseCode.GOING_AWAY, Unavailable("the server is going away"))
            with suppress(TimeoutError):
                await asyncio.wait_for(_gone(receive), closing.CLOSE_TIMEOUT)
            raise
        finally:
            transport.drop()
            server.close_session(session)


class _SessionHandler:
    """A session as the handler of a connection that it has taken over from the fast lane."""

    __slots__ = ("_place", "_server", "_session", "receive")

    def __init__(self, server: "runtime.Runtime", session: Session, place: Place | None) -> None:
        self._place = place
        self._server = server
        self._session = session
        # Only this is called for each message: the others are not worth their memory in each connection.
        self.receive = session.receive

    def receive_control(self, size: int) -> None:
        self._session.receive_control(size)

    def receive_too_large(self, size: int, head: bytes, tail: bytes) -> None:
        self._session.receive_too_large(size, head, tail)

    def on_backpressure(self, is_behind: bool) -> None:
        self._session.on_backpressure(is_behind)

    def on_slow_consumer(self) -> None:
        self._session.on_slow_consumer()

    def on_ping_timeout(self) -> None:
        self._session.on_ping_timeout()

    def closed(self, handled: "asyncio.Future[None] | None") -> None:
        if self._place is not None:
            self._place.leave()
        self._server.close_session(self._session, handled)


def _take_over(
    takeover: ConnectionTakeover,
    server: "runtime.Runtime",
    scope: Any,
    authenticated: authentication.Authenticated,
    place: Place | None,
) -> None:
    limits = server.limits_of(authenticated.role)
    user, django_session = scope.get("user"), loaded_session_in(scope)

    def make_handler(transport: Transport) -> _SessionHandler:
        return _SessionHandler(
            server,
            server.open_session(transport, user, authenticated, limits, django_session),
            place,
        )

    takeover.take_over(limits.buffered_bytes, make_handler, limits.message_bytes)


async def _authenticate(
    scope: Any, receive: Any, server: "runtime.Runtime"
) -> authentication.Authenticated | None:
    """Authenticate the client. ``None``: its credential is false, and the reason was logged.

    Raises:
        ClientGone: the client disconnected meanwhile.
        AuthenticatorFailed, Busy, DatabaseError: the credential cannot be checked at the moment.
        TooManyFailures, TooManyTokens: the credential was not checked.
    """
    credentials = server.credentials
    credential = authentication.credential_in(scope)
    # Not looked at without need: it may be a user that is loaded, by a query, when it is.
    has_user = credential is not None and getattr(scope.get("user"), "is_authenticated", False)
    # Without an authenticator, and if a user is logged in, the token may be one of the project's own middleware.
    if credential is None or (has_user and not credentials.accepts_tokens):
        authenticated = authentication.UNAUTHENTICATED
        if not credentials.accepts_tokens:
            return authenticated
    else:
        began = server.loop.time()
        checking = credentials.authenticate(credential, scope, _host(scope), has_user=has_user)
        answer = await while_connected(receive, checking)
        if isinstance(answer, authentication.Rejected):
            level = (
                logging.WARNING if credentials.is_log_due(_host(scope), answer) else logging.DEBUG
            )
            logger.log(level, "connection from %s refused: %s", _address(scope), answer.reason)
            return None
        authenticated = replace(answer, began=began)
    authenticator = None
    if credentials.accepts_tokens and authenticated.role is Role.CLIENT:
        authenticator = ConnectionAuthenticator(
            credentials, scope, _host(scope), server.was_disconnected
        )
    return replace(authenticated, address=_host(scope), authenticator=authenticator)


async def _receive(
    session: Session,
    transport: AsgiTransport | DaphneTransport,
    connection: ServerConnection,
    receive: Any,
) -> None:
    """Give the session the frames, one after the other, until the client is gone."""
    for number in count(1):
        if number % FRAMES_BETWEEN_YIELDS == 0:
            await asyncio.sleep(0)
        event = await receive()
        if event["type"] == "websocket.disconnect":
            return
        frame = event.get("text")
        if frame is None:
            frame = event.get("bytes") or b""
        handled = session.receive(frame)
        if handled is not None:
            await _with_reading_paused(connection, handled)
        # The client does not read what it is sent, acks perhaps: it need not send more.
        if (drained := transport.drained()) is not None:
            await _with_reading_paused(connection, drained)


async def _with_reading_paused(connection: ServerConnection, awaited: Awaitable[None]) -> None:
    """Wait, and leave the next frames with the client rather than take them into the server's memory."""
    connection.pause_reading()
    try:
        await awaited
    finally:
        connection.resume_reading()


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass


def _host(scope: Any) -> str:
    return printable(str((scope.get("client") or [""])[0]), 64)


def _address(scope: Any) -> str:
    # If the server trusts its proxy, this is the address in the proxy's header.
    client = scope.get("client")
    return printable("{}:{}".format(*client), 64) if client else "an unknown address"
