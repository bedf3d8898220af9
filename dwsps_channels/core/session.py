"""The server's side of a client's connection: a frame in, decisions, frames out. The same on every server."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, ClassVar

from dwsps_channels.core.futures import Future, has_failed
from dwsps_channels.core.identity import Identity
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.node import Node
from dwsps_channels.core.observer import Observer
from dwsps_channels.core.policy import Policy
from dwsps_channels.core.rate_limit import RateLimiter
from dwsps_channels.core.reply_queue import ReplyQueue
from dwsps_channels.core.subscription import Subscriber
from dwsps_channels.core.transport import Transport
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import (
    Forbidden,
    MessageTooLarge,
    RateLimited,
    TooManySubscriptions,
    Unavailable,
    WireError,
)
from dwsps_channels.protocol.frames import Frame
from dwsps_channels.protocol.messages import (
    CLIENT_REQUESTS,
    Ack,
    Publish,
    Requests,
    Subject,
    Subscribe,
    decode,
    encode,
    error_frame,
    subject_of,
    subject_of_excerpt,
)
from dwsps_channels.protocol.timestamps import now
from dwsps_channels.protocol.topics import check, contexts, size

logger = logging.getLogger("dwsps_channels.session")


class Session:
    """Handles the frames of one connection, one after the other.

    Call ``open`` once the connection is accepted, ``receive`` for each frame, ``closed`` when it is gone: the last
    one always, whatever happened before.
    """

    __slots__ = (
        "_closing",
        "_hub",
        "_limiter",
        "_limits",
        "_node",
        "_observers",
        "_policy",
        "_replies",
        "_subscriber",
        "_transport",
        "identity",
    )

    requests: ClassVar[Requests] = CLIENT_REQUESTS
    """The requests that the other end may send."""
    waits_for_readers: ClassVar[bool] = True
    """True if a publisher that is faster than a slow client reads is slowed down."""

    def __init__(
        self,
        node: Node,
        transport: Transport,
        identity: Identity,
        *,
        policy: Policy,
        limits: Limits,
        observers: Sequence[Observer] = (),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.identity = identity
        self._node = node
        self._hub = node.hub
        self._transport = transport
        self._policy = policy
        self._limits = limits
        self._observers = observers
        self._limiter = RateLimiter.of(limits, clock)
        self._subscriber = Subscriber(transport)
        # Made for the first answer that has to wait for the broker: most sessions have none.
        self._replies: ReplyQueue | None = None
        # Set once the connection is closing or gone: from then on no frame is handled, and what a policy still
        # decides about subscribes nothing, so that nothing leaks.
        self._closing = False

    def open(self) -> None:
        """Tell that the connection was accepted."""
        for observer in self._observers:
            observer.connected(self.identity)

    def receive(self, frame: str | bytes) -> Awaitable[None] | None:
        """Handle one websocket message, text or binary. Never raises: what is wrong is answered with an error.

        If an awaitable is returned, await it before the next frame, and do not cancel it: only then is the session
        ready for that.

        Once ``close`` was called, frames are ignored: no ack could reach the client, which will send them again.
        """
        if self._closing:
            return None
        try:
            # Before all else: what cannot be read costs the server as much as what can.
            if self._limiter is not None and (refused := self._refusal(_size(frame))) is not None:
                raise refused
            limits = self._limits
            request = decode(frame, limits.message_bytes, limits.message_depth, self.requests)
            allowed = self._allowed(request)
            if isinstance(allowed, bool):
                return self._handle(request, allowed)
        except Exception as error:
            return self._report(error, frame)
        return self._decide(request, frame, allowed)

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
        self._leave()
        self._transport.close(code, error_frame(error), discard=discard)

    def on_backpressure(self, is_behind: bool) -> None:
        """Have publishers wait for this client, which is behind with reading, or no longer."""
        if is_behind and not self._closing:
            self._hub.lagging.add(self._subscriber)
        else:
            self._hub.lagging.discard(self._subscriber)

    def on_slow_consumer(self) -> None:
        """Close the connection of a client that does not read what it is sent."""
        limit = self._limits.buffered_bytes
        logger.info(
            "client %s closed: more than %d bytes were waiting to be read",
            self.identity.client,
            limit,
        )
        problem = f"too slow: more than {limit} bytes were waiting to be read"
        self.close(CloseCode.SLOW_CONSUMER, Unavailable(problem), discard=True)

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

    def _allowed(self, request: Any) -> bool | Awaitable[bool]:
        """Ask the policy. Raises a ``WireError`` for what it need not be asked about."""
        if isinstance(request, Publish):
            contexts(request.topic)  # as ``check``, but remembered, and the hub asks for them next
            if request.from_peer_server:
                raise Forbidden(
                    "send fromPeerServer: this connection is not an authenticated peer's"
                )
            return self._policy.may_publish(self.identity, request.topic)
        check(request.topic)
        if isinstance(request, Subscribe):
            return self._policy.may_subscribe(self.identity, request.topic)
        return True  # to unsubscribe takes no right

    async def _decide(self, request: Any, frame: str | bytes, allowed: Awaitable[bool]) -> None:
        """Do the rest of ``receive`` once the policy has answered."""
        try:
            pending = self._handle(request, await allowed)
        except Exception as error:
            pending = self._report(error, frame)
        if pending is not None:
            await pending

    def _handle(self, request: Any, allowed: bool) -> Awaitable[None] | None:
        """Do the rest of ``receive`` after the policy's decision."""
        if not isinstance(request, Publish):
            self._perform(request, allowed)
            return self._acknowledge(request)
        # Not a method of its own: this is the way of every publish.
        topic = request.topic
        if not allowed:
            raise Forbidden(f"publish to '{topic}'")
        # A copy, because the decoded message holds on to the whole frame, and the tail keeps what it is given.
        answer = self._node.publish(
            topic, request.message.copy(), request.timestamp or now(), self.identity.client
        )
        was_refused = False
        if isinstance(answer, int):
            pending = self._acknowledge(request)
        else:
            was_refused = has_failed(answer)
            pending = self._acknowledge_later(request, answer)
        if not was_refused:
            for observer in self._observers:
                observer.published(self.identity, topic, request.message)
        if self._hub.lagging and self.waits_for_readers and self._hub.behind(topic) is not None:
            return self._slow_down(topic, pending)
        return pending

    async def _slow_down(self, topic: str, pending: Awaitable[None] | None) -> None:
        """Wait for those who read what is published to ``topic``, as long as their transports find it worth it."""
        if pending is not None:
            await pending
        while not self._closing and (reader := self._hub.behind(topic)) is not None:
            caught_up = reader.caught_up()
            if caught_up is None:
                return
            await caught_up

    def _perform(self, request: Any, allowed: bool) -> None:
        """Let a request take effect that is no publish."""
        topic = request.topic
        if isinstance(request, Subscribe):
            if not allowed:
                raise Forbidden(f"subscribe to '{topic}'")
            self._subscribe(topic)
        elif self._hub.unsubscribe(self._subscriber, topic):
            for observer in self._observers:
                observer.unsubscribed(self.identity, topic)

    def _subscribe(self, topic: str) -> None:
        if self._closing:
            raise Unavailable("the connection is closing")
        subscriber, limits = self._subscriber, self._limits
        if topic not in subscriber.subscriptions:
            if len(subscriber.subscriptions) >= limits.subscriptions:
                raise TooManySubscriptions(limits.subscriptions)
            if subscriber.size + size(topic) > limits.subscription_bytes:
                raise TooManySubscriptions(limits.subscription_bytes, "bytes of topics")
        if self._hub.subscribe(self._subscriber, topic):
            for observer in self._observers:
                observer.subscribed(self.identity, topic)

    def _acknowledge(self, request: Any) -> Awaitable[None] | None:
        """Reply that ``request`` took effect. Await what is returned, if anything, before the next frame."""
        frame = encode(
            Ack(action=request.action, timestamp=now(), topic=request.topic, id=request.id)
        )
        # As ``_answer``, without the call.
        if self._replies is None:
            self._transport.send(frame)
            return None
        self._replies.reply(frame)
        return self._replies.room()

    def _acknowledge_later(self, request: Any, outcome: Future) -> Awaitable[None] | None:
        """Reply once the broker has answered. Await what is returned, if anything, before the next frame."""
        if self._replies is None:
            self._replies = ReplyQueue(self._transport.send)
        subject = Subject(request.action, request.topic, request.id)
        return self._replies.defer(outcome, partial(self._outcome, subject))

    def _outcome(self, subject: Subject, error: BaseException | None) -> Frame:
        """Return the reply to a publish that the broker has accepted or not."""
        if error is not None:
            return self._error(error, subject)
        return encode(Ack(action="publish", timestamp=now(), topic=subject.topic, id=subject.id))

    def _report(self, error: Exception, frame: str | bytes) -> Awaitable[None] | None:
        self._answer(self._error(error, subject_of(frame)))
        return None if self._replies is None else self._replies.room()

    def _answer(self, frame: Frame) -> None:
        if self._replies is None:
            self._transport.send(frame)
        else:
            self._replies.reply(frame)

    def _error(self, error: BaseException, subject: Subject) -> Frame:
        if not isinstance(error, WireError):
            # A policy of the project's raised, or we have a defect: closed to the client, told in the log.
            logger.error(
                "a frame of client %s could not be handled", self.identity.client, exc_info=error
            )
            error = Unavailable("the server could not handle this, its log says why")
        return error_frame(error, subject)


def _size(frame: str | bytes) -> int:
    """Return its bytes, of UTF-8 if it is text."""
    if isinstance(frame, bytes) or frame.isascii():
        return len(frame)
    return len(frame.encode(errors="surrogatepass"))
