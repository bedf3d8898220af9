"""The server's end of a connection, whatever is sent on it: its replies in order, its rate, its close."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from msgspec import UNSET, UnsetType

from dwsps_channels.core.identity import Identity
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.rate_limit import RateLimiter
from dwsps_channels.core.reply_queue import Reply, ReplyQueue
from dwsps_channels.core.services import Services
from dwsps_channels.core.subscription import Subscriber
from dwsps_channels.core.transport import Transport
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import MessageTooLarge, RateLimited, Unavailable, WireError
from dwsps_channels.protocol.frames import Frame
from dwsps_channels.protocol.messages import (
    Ack,
    Resumed,
    Subject,
    encode,
    error_frame,
    subject_of_excerpt,
)
from dwsps_channels.protocol.timestamps import now

logger = logging.getLogger("dwsps_channels.session")


T = TypeVar("T")


class Endpoint:
    """The part of a session that knows no requests.

    Call ``open`` once the connection is accepted, and ``closed`` when it is gone: the last always, whatever happened
    before.
    """

    __slots__ = (
        "_closing",
        "_hub",
        "_knows_reset",
        "_limiter",
        "_limits",
        "_node",
        "_observers",
        "_replies",
        "_services",
        "_subscriber",
        "_transport",
        "identity",
    )

    def __init__(
        self,
        services: Services,
        transport: Transport,
        identity: Identity,
        limits: Limits,
    ) -> None:
        self.identity = identity
        self._services = services
        # These are at hand, for the way of a publish.
        self._node = services.node
        self._hub = services.node.hub
        self._observers = services.observers
        self._transport = transport
        self._limits = limits
        self._limiter = RateLimiter.of(limits, services.clock)
        self._subscriber = Subscriber(transport)
        # Made for the first answer that has to wait for the broker: most sessions have none.
        self._replies: ReplyQueue | None = None
        # Set once the connection is closing or gone: from then on no frame is handled, and what a policy still
        # decides about subscribes nothing, so that nothing leaks.
        self._closing = False
        # Set once the client has sent what no client sends that does not recover: dwsps 1.0.1 knows no ``Reset``.
        self._knows_reset = False

    def open(self) -> None:
        """Tell that the connection was accepted."""
        for observer in self._observers:
            observer.connected(self.identity)

    def receive_too_large(self, size: int, head: bytes, tail: bytes) -> None:
        """Answer a message of ``size`` bytes that the connection did not keep, but for its first bytes and its last."""
        if self._closing:
            return
        error: WireError = self._refusal(size) or MessageTooLarge(size, self._limits.message_bytes)
        self._answer(self._error(error, subject_of_excerpt(head, tail)))

    def receive_control(self, size: int) -> None:
        """Count a ping or a pong of ``size`` bytes. Call it if the connection sees them; it answers them itself."""
        if self._limiter is not None and not self._closing:
            self._limiter.count_control(size)
            self._close_if_flooded()

    @property
    def buffered_bytes(self) -> int:
        """The bytes queued for the client, which is behind."""
        return self._transport.buffered_bytes

    def close(self, code: CloseCode, error: WireError, *, discard: bool = False) -> None:
        """Tell the client why, and close; with ``discard``, without what is waiting to be sent."""
        # After a close that discards what waits, the client lacks what is before the cursor.
        cursor = self._sent_cursor() if code is CloseCode.GOING_AWAY and not discard else ""
        self._leave()
        self._transport.close(code, error_frame(error, cursor=cursor), discard=discard)

    def _sent_cursor(self) -> str:
        """Return the place in the log up to which everything was sent; empty: there is no log."""
        return self._node.cursor

    def stop_receiving(self) -> Awaitable[None] | None:
        """Ignore what the client sends from now on, and call ``close`` soon.

        Await what is returned first: the broker has not answered all of its publishes yet. ``None``: it has.
        """
        self._closing = True
        return None if self._replies is None else self._replies.sent()

    def reset(self, frame: Frame) -> None:
        """Send ``frame``, a ``Reset``, to a client that knows what that is."""
        if self._knows_reset:
            self._transport.send(frame)

    def on_backpressure(self, is_behind: bool) -> None:
        """Have publishers wait for this client, which is behind with reading, or no longer."""
        if is_behind and not self._closing:
            self._hub.lagging.add(self._subscriber)
        else:
            self._hub.lagging.discard(self._subscriber)

    def on_slow_consumer(self) -> None:
        """Close the connection of a client that does not read what it is sent."""
        self._close_as_slow(
            f"more than {self._limits.buffered_bytes} bytes were waiting to be read"
        )

    def _close_as_slow(self, problem: str) -> None:
        logger.info("client %s closed: %s", self.identity.client, problem)
        self.close(CloseCode.SLOW_CONSUMER, Unavailable(f"too slow: {problem}"), discard=True)

    def on_ping_timeout(self) -> None:
        """Close the connection of a client that no longer answers pings."""
        logger.info("client %s closed: it did not answer a ping", self.identity.client)
        problem = "silent: a ping was not answered"
        self.close(CloseCode.PING_TIMEOUT, Unavailable(problem), discard=True)

    def _refusal(self, size: int) -> RateLimited | None:
        """Count a message of ``size`` bytes against the rate; how it is refused, if it is."""
        if self._limiter is None:
            return None
        refused = self._limiter.refusal(size)
        if refused is not None:
            self._close_if_flooded()
        return refused

    def _close_if_flooded(self) -> None:
        """Close the connection of a client that goes on sending although it is refused."""
        assert self._limiter is not None
        if (error := self._limiter.flooding()) is not None:
            logger.info("client %s closed: it kept sending above its rate", self.identity.client)
            self.close(CloseCode.FLOODING, error, discard=True)

    def closed(self) -> None:
        """Forget the connection: it is gone."""
        self._leave()
        for observer in self._observers:
            observer.disconnected(self.identity)

    def _leave(self) -> None:
        self._closing = True
        self._hub.remove(self._subscriber)

    async def _continue(
        self,
        request: Any,
        awaited: Awaitable[T],
        handle: Callable[[T], Awaitable[None] | None],
    ) -> None:
        """Do the rest of ``receive`` once ``awaited`` has a result."""
        try:
            pending = handle(await awaited)
        except Exception as error:
            pending = self._report(error, Subject(request.action, request.topic, request.id))
        if pending is not None:
            await pending

    def _ack(
        self,
        request: Any,
        recovered: bool | UnsetType = UNSET,
        topics: dict[str, Resumed] | UnsetType = UNSET,
        cursor: str = "",
    ) -> Frame:
        """Return the ack of a request that is no publish. Send it at once: its cursor, if none is given, is true now."""
        return encode(
            Ack(
                action=request.action,
                timestamp=now(),
                topic=request.topic,
                id=request.id,
                cursor=cursor or self._node.cursor or UNSET,
                recovered=recovered,
                topics=topics,
            )
        )

    def _reply(self, reply: Reply) -> Awaitable[None] | None:
        """Reply to the frame that is being handled. Await what is returned, if anything, before the next frame."""
        self._answer(reply)
        return None if self._replies is None else self._replies.room()

    def _answer(self, reply: Reply) -> None:
        if self._replies is None:
            self._transport.send(reply if isinstance(reply, Frame) else reply())
        else:
            self._replies.reply(reply)

    def _report(self, error: Exception, subject: Subject) -> Awaitable[None] | None:
        return self._reply(self._error(error, subject))

    def _error(self, error: BaseException, subject: Subject) -> Frame:
        return error_frame(self._wire_error(error), subject)

    def _wire_error(self, error: BaseException) -> WireError:
        """Return the error for the client. If it is a policy's failure, or a defect of ours, only the log tells it."""
        if isinstance(error, WireError):
            return error
        logger.error(
            "a frame of client %s could not be handled", self.identity.client, exc_info=error
        )
        return Unavailable("the server could not handle this, its log says why")
