"""The server's side of a client's connection: a frame in, decisions, frames out. The same on every server."""

from collections.abc import Awaitable
from functools import partial
from typing import Any, ClassVar

from msgspec import UNSET, Raw, UnsetType

from dwsps_channels.core.authenticating import AuthenticatingEndpoint
from dwsps_channels.core.authenticator import Authenticator
from dwsps_channels.core.broker import Repeated
from dwsps_channels.core.futures import Future, has_failed
from dwsps_channels.core.identity import Identity
from dwsps_channels.core.keys import key_prefix
from dwsps_channels.core.limits import Limits
from dwsps_channels.core.policy import ANSWERS, Answer, reason_of
from dwsps_channels.core.reply_queue import ReplyQueue
from dwsps_channels.core.services import Services
from dwsps_channels.core.subscription import SubscriptionQuota
from dwsps_channels.core.transport import Transport
from dwsps_channels.protocol.errors import Forbidden, Unavailable
from dwsps_channels.protocol.frames import Frame
from dwsps_channels.protocol.messages import (
    CLIENT_REQUESTS,
    Ack,
    Authenticate,
    Publish,
    Requests,
    Resume,
    Subject,
    Subscribe,
    decode,
    encode,
    subject_of,
)
from dwsps_channels.protocol.timestamps import now
from dwsps_channels.protocol.topics import NOTICES, check, contexts


class Session(AuthenticatingEndpoint):
    """Handles the frames of one connection, one after the other.

    Call ``open`` once the connection is accepted, ``receive`` for each frame, ``closed`` when it is gone: the last
    one always, whatever happened before.
    """

    __slots__ = ("_key_prefix",)

    requests: ClassVar[Requests] = CLIENT_REQUESTS
    """The requests that the other end may send."""
    waits_for_readers: ClassVar[bool] = True
    """True if a publisher that is faster than a slow client reads is slowed down."""

    def __init__(
        self,
        services: Services,
        transport: Transport,
        identity: Identity,
        limits: Limits,
        authenticator: Authenticator | None = None,
    ) -> None:
        """Take one connection.

        Args:
            services: those of the process.
            transport: sends the frames.
            identity: the client's, by its handshake.
            limits: the caps on the connection.
            authenticator: authenticates the tokens that the client sends later; ``None``: it may send none.
        """
        super().__init__(services, transport, identity, limits, authenticator)
        # Made for the first key.
        self._key_prefix = ""

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
            if isinstance(allowed, ANSWERS):
                return self._handle(request, allowed)
        except Exception as error:
            return self._report(error, subject_of(frame))
        return self._continue_with(request, allowed)

    def _process(self, request: Any) -> Awaitable[None] | None:
        allowed = self._allowed(request)
        if isinstance(allowed, ANSWERS):
            return self._handle(request, allowed)
        return self._continue_with(request, allowed)

    def _continue_with(self, request: Any, allowed: Awaitable[Answer]) -> Awaitable[None]:
        latest = self._latest(allowed, partial(self._allowed, request), self._generation)
        return self._continue(request, latest, partial(self._handle, request))

    def _allowed(self, request: Any) -> Answer | Awaitable[Answer]:
        """Ask the policy, about a resume later. Raises a ``WireError`` for what it need not be asked about."""
        if isinstance(request, Publish):
            # As ``check``, but remembered, and the hub asks for them next.
            contexts(request.topic)
            if request.topic == NOTICES:
                check(request.topic)
            if request.from_peer_server:
                raise Forbidden(
                    "send fromPeerServer: this connection is not an authenticated peer's"
                )
            if self._hold is not None:
                return self._may_publish(request.topic)
            return self._policy.may_publish(self.identity, request.topic)
        if isinstance(request, Resume):
            self._knows_reset = True
            return True
        if isinstance(request, Authenticate):
            return True
        check(request.topic)
        if isinstance(request, Subscribe):
            if request.since is not UNSET or request.last is not UNSET:
                self._knows_reset = True
            return self._may_subscribe(request.topic, request.grant)
        return True  # to unsubscribe takes no right

    def _handle(self, request: Any, allowed: Answer) -> Awaitable[None] | None:
        """Do the rest of ``receive`` after the policy's decision."""
        if not isinstance(request, Publish):
            if isinstance(request, Resume):
                return self._resume(request)
            if isinstance(request, Authenticate):
                return self._authenticate(request)
            return self._perform(request, allowed)
        # Not a method of its own: this is the way of every publish.
        topic = request.topic
        if not allowed:
            raise Forbidden(f"publish to '{topic}'", reason_of(allowed))
        key = request.key
        if key:
            key = (self._key_prefix or self._begin_keys()) + key
        # A copy, because the decoded message holds on to the whole frame, and the tail keeps what it is given.
        message = request.message.copy()
        answer = self._node.publish(
            topic, message, request.timestamp or now(), self.identity.client, key
        )
        if isinstance(answer, int):
            is_published = not (key and isinstance(answer, Repeated))
            pending = self._acknowledge(request, answer if is_published else int(answer))
        elif key:
            # Only the broker's answer tells if it was published before.
            is_published = False
            answer.add_done_callback(partial(self._tell_if_published, topic, message))
            pending = self._acknowledge_later(request, answer)
        else:
            is_published = not has_failed(answer)
            pending = self._acknowledge_later(request, answer)
        if is_published:
            for observer in self._observers:
                observer.published(self.identity, topic, message)
        if self._hub.lagging and self.waits_for_readers and self._hub.behind(topic) is not None:
            return self._slow_down(topic, pending)
        return pending

    def _identify(self, identity: Identity, generation: int) -> None:
        self._key_prefix = ""
        super()._identify(identity, generation)

    def _tell_if_published(self, topic: str, message: Raw, outcome: Future) -> None:
        if not has_failed(outcome) and not isinstance(outcome.result(), Repeated):
            for observer in self._observers:
                observer.published(self.identity, topic, message)

    def _begin_keys(self) -> str:
        """Take note that the client sends keys; return the beginning of each."""
        self._knows_reset = True
        try:
            prefix = key_prefix(self.identity, self._services.find_user(self.identity))
        except Exception:
            # As in ``Sessions``: a user of the project may be unable to tell its key here.
            prefix = key_prefix(self.identity, None)
        self._key_prefix = prefix
        return prefix

    async def _slow_down(self, topic: str, pending: Awaitable[None] | None) -> None:
        """Wait for those who read what is published to ``topic``, as long as their transports find it worth it."""
        if pending is not None:
            await pending
        while not self._closing and (reader := self._hub.behind(topic)) is not None:
            caught_up = reader.caught_up()
            if caught_up is None:
                return
            await caught_up

    def _perform(self, request: Any, allowed: Answer) -> Awaitable[None] | None:
        """Let a request take effect that is no publish, and reply."""
        topic = request.topic
        if isinstance(request, Subscribe):
            if not allowed:
                raise Forbidden(f"subscribe to '{topic}'", reason_of(allowed))
            if self._closing:
                raise Unavailable("the connection is closing")
            SubscriptionQuota(self._subscriber, self._limits).admit(topic)
            if request.since is not UNSET or request.last:
                return self._subscribe_with_replay(request, allowed)
            self._subscribe(topic, allowed, request.grant)
        else:
            self._unsubscribe(topic)
        # As ``_reply``, without the calls.
        if self._replies is None:
            self._transport.send(self._ack(request))
            return None
        return self._reply(partial(self._ack, request))

    def _acknowledge(self, request: Any, offset: int | UnsetType) -> Awaitable[None] | None:
        """Reply that a publish took effect. Await what is returned, if anything, before the next frame."""
        frame = encode(
            Ack(
                action="publish",
                timestamp=now(),
                topic=request.topic,
                id=request.id,
                offset=offset,
            )
        )
        # As ``_reply``, without the call.
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

    def _outcome(self, subject: Subject, outcome: Future) -> Frame:
        """Return the reply to a publish that the broker has accepted or not."""
        error = outcome.exception()
        if error is not None:
            return self._error(error, subject)
        offset: int | None = outcome.result()
        return encode(
            Ack(
                action="publish",
                timestamp=now(),
                topic=subject.topic,
                id=subject.id,
                offset=UNSET if offset is None else int(offset),
            )
        )


def _size(frame: str | bytes) -> int:
    """Return its bytes, of UTF-8 if it is text."""
    if isinstance(frame, bytes) or frame.isascii():
        return len(frame)
    return len(frame.encode(errors="surrogatepass"))
