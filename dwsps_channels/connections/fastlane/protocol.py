"""The websocket protocol class for uvicorn's ``--ws``: one connection, from its upgrade to its end.

It reads frames itself (``reader``), and writes them once per turn of the event loop (``send_buffer``). Any ASGI
application runs on it. Ours takes the connection over (``takeover``): then a frame goes to its session, and the answer
back, within the call that brings it, without a task or a queue.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from enum import IntEnum
from http import HTTPStatus
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from dwsps_channels.connections.fastlane.application import Application
from dwsps_channels.connections.fastlane.resources import resources_of
from dwsps_channels.connections.fastlane.round_robin import (
    MAX_BYTES_PER_TURN,
    MAX_FRAMES_PER_TURN,
)
from dwsps_channels.connections.fastlane.scope import websocket_scope
from dwsps_channels.connections.fastlane.takeover import (
    EXTENSION,
    ConnectionHandler,
    ConnectionTakeover,
    MakeHandler,
)
from dwsps_channels.connections.transports.closing import (
    CLOSE_TIMEOUT,
    LINGER_TIMEOUT,
    SLOW_CLOSE_TIMEOUT,
)
from dwsps_channels.connections.transports.counters import counters
from dwsps_channels.connections.transports.in_flight import bytes_in_flight
from dwsps_channels.connections.transports.send_buffer import MAX_FRAMES_PER_BATCH, SendBuffer
from dwsps_channels.connections.websocket.close import (
    ABNORMAL,
    INTERNAL_ERROR,
    SERVICE_RESTART,
    close_frame,
)
from dwsps_channels.connections.websocket.events import (
    Close,
    Control,
    Fragment,
    Oversized,
    Ping,
    Pong,
    Violation,
)
from dwsps_channels.connections.websocket.handshake import (
    HandshakeRejected,
    HandshakeRequest,
    http_response,
)
from dwsps_channels.connections.websocket.opcodes import PING, PONG
from dwsps_channels.connections.websocket.reader import HEAD_BYTES, Reader
from dwsps_channels.protocol.frames import websocket_frame

logger = logging.getLogger("uvicorn.error")

# What a client that is rejected or has broken the protocol may go on sending before the connection is cut off.
LINGER_BYTES = 256 * 1024

_PING = websocket_frame(PING, b"")

_TURN = range(MAX_FRAMES_PER_TURN)


class ConnectionState(IntEnum):
    """The states of a connection, in order; some may be left out."""

    OPENING = 0
    """The application has not accepted or rejected yet."""
    OPEN = 1
    CLOSING = 2
    """We have sent a close frame, and wait for the client's."""
    OVER = 3
    """Everything is sent. What the client still sends is thrown away until it is gone."""


# A look-up in an enumeration takes long, for what is done with each message.
OPENING, OPEN, CLOSING, OVER = ConnectionState


class WebSocketProtocol(asyncio.Protocol):
    """Made for each handshake: ``connection_made``, then ``open``.

    uvicorn makes one as well, if a handshake came to its own HTTP protocol: then ``data_received`` gets the request.
    """

    __slots__ = (
        "_app_state",
        "_application",
        "_awaited",
        "_discarded",
        "_handler",
        "_lingers",
        "_loop",
        "_missed_pings",
        "_ping_slot",
        "_reader",
        "_receive",
        "_resources",
        "_server_state",
        "_state",
        "_timer",
        "_waits_for_turn",
        "config",
        "send_buffer",
        "transport",
    )

    transport: asyncio.Transport
    send_buffer: SendBuffer
    """The outgoing half of the connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.config = config
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._resources = resources_of(server_state, config, self._loop)
        self._state = OPENING
        self._reader: Reader | None = None
        # The application gets the messages, until a handler takes over; None once it knows that the connection is over.
        self._application: Application | None = None
        self._handler: ConnectionHandler | None = None
        self._receive: Callable[[str | bytes], Awaitable[None] | None] | None = None
        # While it is there, the last message is being handled and no other is read.
        self._awaited: asyncio.Future[None] | None = None
        # Set while there is more to read than one turn of the event loop may take; until the next, nothing is read.
        self._waits_for_turn = False
        # The pings since the last whole frame.
        self._missed_pings = 0
        self._ping_slot = -1
        # Whether the client, once it has got all, is to close before us.
        self._lingers = False
        # How many bytes were thrown away since all was said.
        self._discarded = 0
        # What cuts the connection off if the client does not let it end.
        self._timer: asyncio.TimerHandle | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.send_buffer = SendBuffer(self.transport, self._resources.batch_writer, self)
        cast(set[object], self._server_state.connections).add(self)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            if self._state is OPENING:
                self._read_request(data)
            else:
                self._discarded += len(data)
                if self._discarded > LINGER_BYTES:
                    self.transport.abort()
            return
        reader.feed(data)
        if self._state is OPENING:
            # Before it was accepted: let it wait.
            self.transport.pause_reading()
        elif len(data) >= MAX_BYTES_PER_TURN:
            # The loop may read this socket again at once, and so others that bring as much.
            self._wait_for_turn()
        elif self._awaited is None or self._state is CLOSING:
            self._read()

    def eof_received(self) -> None:
        """Do nothing: the transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = OVER
        self._reader = None
        cast(set[object], self._server_state.connections).discard(self)
        self._resources.pinger.remove(self, self._ping_slot)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.send_buffer.drop()
        self._notify_end(ABNORMAL)

    def pause_writing(self) -> None:
        self.send_buffer.block()
        # A client that does not read what it is sent, acks perhaps, need not send more.
        if self._state is OPEN:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        send_buffer = self.send_buffer
        send_buffer.unblock()
        if send_buffer.blocked:
            return
        if self._application is not None:
            self._application.unblocked()
        if self._state is OVER:
            self._end()
        else:
            self._read_on()

    # uvicorn

    def shutdown(self) -> None:
        """Close the connection: the server is going away."""
        self._notify_end(SERVICE_RESTART)
        # Another server may be up. With 500 a peer would take this one for defective.
        self.refuse(http_response(HTTPStatus.SERVICE_UNAVAILABLE, (), b"Service Unavailable"))
        self.close(SERVICE_RESTART)

    # The opening

    def _read_request(self, head: bytes) -> None:
        try:
            request = HandshakeRequest(head)
        except HandshakeRejected as rejected:
            logger.info("WebSocket handshake rejected: %s", rejected)
            self.refuse(rejected.response)
        else:
            self.open(request)

    def open(self, request: HandshakeRequest) -> None:
        """Start the application, which accepts or rejects ``request``."""
        config, state, transport = self.config, self._server_state, self.transport
        self._reader = Reader(config.ws_max_size)
        extensions = {EXTENSION: ConnectionTakeover(self)}
        scope = websocket_scope(request, transport, config, self._app_state, extensions)
        application = Application(self, request, scope, state.default_headers)
        self._application = application
        self._receive = application.take
        task = self._loop.create_task(application.run(config.loaded_app))
        state.tasks.add(task)
        task.add_done_callback(state.tasks.discard)

    def accept(self, response: bytes) -> None:
        """Open the connection with ``response``."""
        if self._state is OPENING:
            self._state = OPEN
            self.send_buffer.write_frame(response)
            self._ping_slot = self._resources.pinger.add(self)
            # What came too early is read in the next turn, when a handler has taken over.
            self._loop.call_soon(self._read_on)

    def refuse(self, response: bytes) -> None:
        """Reject the handshake with ``response``."""
        if self._state is OPENING:
            self.send_buffer.write_frame(response)
            self._leave(linger=True)

    def take_over(
        self, limit: int, make_handler: MakeHandler, message_limit: int | None = None
    ) -> None:
        """See ``ConnectionTakeover.take_over``."""
        application = self._application
        if self._handler is not None or (application is not None and not application.is_accepted):
            raise RuntimeError("only a connection that was accepted can be taken, and only once")
        handler = make_handler(self.send_buffer)
        if application is None:
            handler.closed(None)  # the client has left since
            return
        self._application = None
        self._handler = handler
        self._receive = handler.receive
        self.send_buffer.set_limit(limit, handler.on_slow_consumer, handler.on_backpressure)
        if message_limit is not None and self._reader is not None:
            self._reader.keep_at_most(message_limit)
        self._hand_over(application.release())

    def _hand_over(self, messages: Iterable[str | bytes]) -> None:
        """Hand over what the application has not fetched."""
        waiting = iter(messages)
        self._awaited = None
        while self._state is OPEN and (message := next(waiting, None)) is not None:
            assert self._receive is not None
            handled = self._receive(message)
            if handled is not None:
                awaited = self._await(handled)
                awaited.remove_done_callback(self._handled)
                awaited.add_done_callback(lambda _: self._hand_over(waiting))
                return
        self._read_on()

    # Messages

    def _read(self) -> None:
        """Hand over what has come, until a message has to be waited for or the turn is over."""
        send_buffer = self.send_buffer
        try:
            for _ in _TURN:
                reader = self._reader
                if reader is None or not reader.unread:
                    return
                message = reader.next()
                if message is None:
                    return
                if not isinstance(message, (str, bytes)):
                    self._handle_control(message)
                elif self._state is OPEN:
                    assert self._receive is not None
                    handled = self._receive(message)
                    if handled is not None:
                        self._await(handled)
                if self._state is OPEN:
                    sent = len(send_buffer.pending) + send_buffer.joined
                    if sent >= MAX_FRAMES_PER_BATCH:
                        send_buffer.flush()
                    if self._awaited is not None or send_buffer.blocked:
                        return
                    if sent >= MAX_FRAMES_PER_TURN:
                        break  # a replay is as much work as many messages
        except Violation as violation:
            self._fail(violation)
        else:
            self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        """Read on when the other connections have been looked at."""
        if self._reader is not None and not self._waits_for_turn:
            self._waits_for_turn = True
            self.transport.pause_reading()
            self._resources.round_robin.enqueue(self)

    def take_turn(self) -> None:
        """See ``round_robin.TurnTaker``."""
        self._waits_for_turn = False
        self._read_on()

    def _await(self, handled: Awaitable[None]) -> "asyncio.Future[None]":
        """Read on only when ``handled`` is done."""
        awaited = self._awaited = asyncio.ensure_future(handled)
        awaited.add_done_callback(self._handled)
        if self._state is OPEN:
            self.transport.pause_reading()
        return awaited

    def _handled(self, awaited: "asyncio.Future[None]") -> None:
        if awaited is self._awaited:
            self._awaited = None
            # If it failed there is a defect: asyncio reports it, and the connection goes on.
            reader = self._reader
            if reader is not None and len(reader.unread) >= MAX_BYTES_PER_TURN:
                # Publishers that have waited for the same reader are not to go on all at once.
                self._wait_for_turn()
            else:
                self._read_on()

    def _read_on(self) -> None:
        """Read what is here, and then what comes, if nothing is against it."""
        if self._may_read():
            self._read()
            if self._may_read() and not self.transport.is_closing():
                self.transport.resume_reading()

    def _may_read(self) -> bool:
        if self._waits_for_turn:
            return False
        if self._state is OPEN:
            return self._awaited is None and not self.send_buffer.blocked
        return self._state is not OPENING

    def _handle_control(self, frame: Control | Fragment | Oversized) -> None:
        handler = self._handler
        if handler is not None and isinstance(frame, Ping | Pong):
            handler.receive_control(len(frame.payload) + HEAD_BYTES)
        if isinstance(frame, Ping):
            self.send_buffer.write_frame(websocket_frame(PONG, frame.payload))
        elif isinstance(frame, Oversized):
            if handler is not None:
                handler.receive_too_large(*frame)
        elif isinstance(frame, Close):
            self._notify_end(frame.code, frame.reason)
            self.send_buffer.write_frame(close_frame(frame.code))
            self._leave(linger=False)

    def on_ping_due(self) -> None:
        """Send a ping, or end a connection whose client has not answered."""
        if self._state is not OPEN:
            return
        # As long as nothing is read, nothing can be heard.
        reader = self._reader
        if (
            self._awaited is not None
            or self._waits_for_turn
            or (reader is not None and reader.heard)
        ):
            if reader is not None:
                reader.heard = False
            self._missed_pings = 0
        else:
            self._missed_pings += 1
            if self._missed_pings >= self._resources.max_missed_pings:
                self._on_ping_timeout()
                return
        if not self.send_buffer.blocked:
            self.send_buffer.write_frame(_PING)

    def _on_ping_timeout(self) -> None:
        counters.ping_timeouts += 1
        if self._handler is not None:
            self._handler.on_ping_timeout()
        else:
            self._notify_end(INTERNAL_ERROR, "keepalive ping timeout")
            self.close(INTERNAL_ERROR, "keepalive ping timeout", timeout=SLOW_CLOSE_TIMEOUT)

    # The end

    def bytes_in_flight(self) -> int:
        """See ``send_buffer.Closable``."""
        return bytes_in_flight(self.transport)

    def begin_close(self, code: int, *, timeout: float) -> None:
        """See ``send_buffer.Closable``."""
        self.close(code, timeout=timeout)

    def close(self, code: int, reason: str = "", *, timeout: float = CLOSE_TIMEOUT) -> None:
        """Send a close frame, and give the client ``timeout`` seconds to answer with its own."""
        if self._state is OPEN:
            self._state = CLOSING
            self.send_buffer.write_frame(close_frame(code, reason))
            self.send_buffer.finish()
            self._cut_off_in(timeout)
            # The client's close frame follows data that is thrown away, so read on even if reading was paused.
            self._loop.call_soon(self._read_on)

    def _fail(self, violation: Violation) -> None:
        counters.protocol_errors += 1
        self._notify_end(violation.code, violation.reason)
        self.send_buffer.write_frame(close_frame(violation.code, violation.reason))
        self._leave(linger=True)

    def _leave(self, *, linger: bool) -> None:
        """End the connection once all is written; what still comes is thrown away."""
        self._state = OVER
        self._reader = None
        self._lingers = linger
        self.send_buffer.finish()
        self._cut_off_in(LINGER_TIMEOUT)
        self.send_buffer.flush()
        self._end()

    def _end(self) -> None:
        transport = self.transport
        if self.send_buffer.is_empty and not transport.is_closing():
            if self._lingers and transport.can_write_eof():
                # Were it closed now, with something unread, a reset could overtake what we had to say.
                transport.write_eof()
                transport.resume_reading()
            else:
                transport.close()

    def _notify_end(self, code: int, reason: str = "") -> None:
        """Tell the application or the handler, once, that the connection is over."""
        self._receive = None
        if (application := self._application) is not None:
            self._application = None
            application.disconnected(code, reason)
        if (handler := self._handler) is not None:
            self._handler = None
            handler.closed(self._awaited)

    def _cut_off_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self.transport.abort)
