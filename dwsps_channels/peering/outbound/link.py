"""The connection to one peer: made again whenever it is lost, and nothing lost with it."""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic, time
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType

from dwsps_channels.client import (
    Backoff,
    ConnectError,
    Connection,
    ConnectionClosed,
    Refused,
    open_connection,
)
from dwsps_channels.core.rate_limit import TokenBucket
from dwsps_channels.core.timings import Timings
from dwsps_channels.peering.outbound.config import PeerConfig
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStatus
from dwsps_channels.peering.outbound.outbox import ForwardedMessage, Outbox
from dwsps_channels.peering.outbound.refusal import TOO_MANY, reason_of
from dwsps_channels.protocol import surrogates
from dwsps_channels.protocol.text import printable

logger = logging.getLogger("dwsps_channels.peering")

STABLE_INTERVAL = 30.0

# A server of ours that knows us by the secret says hello with its first frame, at once.
HELLO_TIMEOUT = 5.0

# A loop stays one until somebody changes a row.
LOOP_RETRY_INTERVAL = 30.0

# The reason of a refusal is found out again after this time: the other side may have mended one fault of two.
REASON_INTERVAL = 60.0

# Answers are small: so much at once is nothing that a peer has to say to a link.
MAX_ANSWER_BYTES = 1024 * 1024

# What a peer may send beside its answers: there is no reason for more than a hello.
UNSOLICITED_RATE = 10.0
UNSOLICITED_BURST = 100

# RFC 6455, section 7.4.1: the peer's server takes no frame of that size.
TOO_BIG = 1009

# A client that is no peer may not send fromPeerServer (docs/reference/protocol.md, P2): nothing else is forbidden to a peer.
FORBIDDEN = "forbidden"

# An error with one of these stands for an ack, also where the peer could not tell which message it is about.
UNREADABLE = frozenset({"invalid_json", "invalid_message", "message_too_deep", "message_too_large"})


class ServerClaims(Protocol):
    """Who leads where: no two links may lead to the same server."""

    def claim(self, link: "Link", server_id: str) -> str | None:
        """Ask for ``server_id``; why ``link`` may not have it, or ``None``: it is its own until released.

        It is kept while the connection is lost: another link to the same server is not to take over what this
        one still has to send.
        """

    def release(self, link: "Link") -> None:
        """Give back what was claimed."""


class Link:
    """Forwards to one peer what is put in its outbox. ``run`` never ends by itself: cancel it."""

    def __init__(
        self,
        config: PeerConfig,
        outbox: Outbox,
        claims: ServerClaims,
        *,
        on_change: Callable[["Link"], None] = lambda link: None,
        timings: Timings,
        backoff: Backoff | None = None,
    ) -> None:
        self.config = config
        self.outbox = outbox
        self._claims = claims
        self._on_change = on_change
        self._timings = timings
        self._backoff = backoff or Backoff(
            timings.LINK_BACKOFF_BASE, timings.LINK_BACKOFF_CAP, stable_after=STABLE_INTERVAL
        )
        self._state = LinkState.CONNECTING
        self._since = time()
        self._last_error = ""
        # What the log has last said of it: the same is said once, however often it is tried.
        self._logged = ""
        self._connection: Connection | None = None
        # Whether a refusal was logged since the connection was made: a peer that refuses all is to fill no log.
        self._refusal_logged = False
        # With which status the handshake was refused last, why, and when that was found out, by ``monotonic``.
        self._refused: tuple[int, str, float] | None = None
        # Why the peer is about to close the connection, as it said.
        self._close_reason = ""
        self._unsolicited = TokenBucket(UNSOLICITED_RATE, UNSOLICITED_BURST, monotonic)
        # Ends the connection once the peer has not answered for too long.
        self._reply_timeout: asyncio.Timeout | None = None
        self._changed = asyncio.Event()

    @property
    def state(self) -> LinkState:
        """What the link is at."""
        return self._state

    def wants(self, message: ForwardedMessage) -> bool:
        """Whether this peer is to get ``message``, as far as its row says."""
        if message.at < self.config.enabled_at:
            return False
        topics = self.config.topics
        return not topics or any(
            message.topic == topic or message.topic.startswith(topic + ".") for topic in topics
        )

    def put(self, message: ForwardedMessage) -> None:
        """Forward ``message``, if the peer is to get it."""
        # What leads nowhere of use need not be kept; once it does, it starts with what comes then.
        if self._state is not LinkState.LOOP and self.wants(message):
            self.outbox.put(message)
            self._changed.set()
        else:
            self.outbox.skip(message)

    def status(self) -> LinkStatus:
        """How the link is now."""
        outbox = self.outbox
        return LinkStatus(
            state=self._state,
            since=self._since,
            last_error=self._last_error,
            round_trip=self._connection.latency if self._connection else None,
            forwarded=outbox.forwarded,
            acked=outbox.acked,
            queued=len(outbox),
            dropped=outbox.dropped,
            resent=outbox.resent,
            cursor=dict(outbox.cursor),
        )

    async def run(self) -> None:
        """Connect, forward, and connect again, until cancelled."""
        try:
            while True:
                self._enter(LinkState.CONNECTING, self._last_error)
                delay = await self._connect()
                logger.debug("peer '%s': next attempt in %.1f s", self.config.name, delay)
                await asyncio.sleep(delay)
        finally:
            self._claims.release(self)
            self._enter(LinkState.DISABLED, self._last_error)

    async def _connect(self) -> float:
        """Forward over one connection, until it is lost; the seconds to wait before the next one."""
        code: int | None = None
        state = LinkState.BACKING_OFF
        try:
            async with open_connection(
                self.config.url,
                token=self.config.secret or None,
                open_timeout=self._timings.LINK_OPEN_TIMEOUT,
                heartbeat=self._timings.LINK_HEARTBEAT_INTERVAL,
                heartbeat_timeout=self._timings.LINK_HEARTBEAT_TIMEOUT,
                max_size=MAX_ANSWER_BYTES,
            ) as connection:
                self._backoff.opened()
                self._connection = connection
                await self._forward(connection)
        except _PeerLoop as error:
            self.outbox.clear()
            self._enter(LinkState.LOOP, str(error))
            return LOOP_RETRY_INTERVAL
        except Refused as refused:
            problem = await self._reason_of(refused)
            # 429: others at our address guess. From 500 on: a proxy's word for a server that is down.
            if refused.status < 500 and refused.status != TOO_MANY:
                state = LinkState.REFUSED
        except ConnectError as error:
            problem = error.problem
        except ConnectionClosed as closed:
            # Some servers drop the reason from the close, and say it before.
            reason = closed.reason or self._close_reason
            code, problem = closed.code, printable(str(ConnectionClosed(closed.code, reason)))
            if code == TOO_BIG and not closed.by_server:
                problem = f"sent a frame of more than {MAX_ANSWER_BYTES} bytes"
            elif code == TOO_BIG and (largest := self.outbox.drop_largest()) is not None:
                # Sent again it would end the next connection, and so for ever: nothing would get past it.
                problem = f"takes no message of {len(largest.frame)} bytes, dropped it"
            if 4000 <= code < 4100:
                # The code says not to come back; but our row there may change, so the link tries now and then.
                code, state = None, LinkState.REFUSED
        except _NotRecognized as error:
            # No message would be taken. None is dropped: the peer may recognise us once its row is corrected.
            problem, state = str(error), LinkState.REFUSED
        except (_PeerUnavailable, _ProtocolViolation) as error:
            problem = printable(str(error))
        except ValueError as error:
            problem = str(error)  # its row has a URL that is none; the text does not repeat it
        except Exception as error:
            # A defect of ours: told, rather than that nothing is forwarded any more.
            logger.exception("the link to peer '%s' failed; it connects again", self.config.name)
            problem = f"the link failed: {type(error).__name__}"
        finally:
            self._connection = None
            self.outbox.rewind()
        self._enter(state, problem)
        return self._backoff.delay(code) or 0.0

    async def _reason_of(self, refused: Refused) -> str:
        """Why the peer refuses. It is found out once a minute: that takes another connection."""
        if self._refused is not None:
            status, reason, found_at = self._refused
            if status == refused.status and monotonic() - found_at < REASON_INTERVAL:
                return reason
        reason = await reason_of(refused, self.config)
        self._refused = refused.status, reason, monotonic()
        return reason

    async def _forward(self, connection: Connection) -> None:
        self._refusal_logged = False
        self._close_reason = ""
        self._unsolicited = TokenBucket(UNSOLICITED_RATE, UNSOLICITED_BURST, monotonic)
        # Servers of ours greet whoever brings its secret in the header.
        if self.config.secret and not self.config.dwsps:
            await self._await_hello(connection)
        self._refused = None
        self._enter(LinkState.CONNECTED, "")
        sending = asyncio.create_task(self._send(connection))
        try:
            async with asyncio.timeout(None) as self._reply_timeout:
                while True:
                    self._handle_frame(await connection.receive())
        except TimeoutError:
            raise _PeerUnavailable(
                f"no message was answered for {self._timings.LINK_ANSWER_TIMEOUT:g} s"
            ) from None
        finally:
            self._reply_timeout = None
            sending.cancel()
            await asyncio.wait([sending])

    def _reset_reply_timeout(self) -> None:
        """Give the peer its time to reply the first message that was sent; whatever else it says is no reply."""
        if self._reply_timeout is not None:
            due = asyncio.get_running_loop().time() + self._timings.LINK_ANSWER_TIMEOUT
            self._reply_timeout.reschedule(due if self.outbox.awaited is not None else None)

    async def _await_hello(self, connection: Connection) -> None:
        """Wait for the hello of a server of ours."""
        try:
            async with asyncio.timeout(HELLO_TIMEOUT):
                while True:
                    reply = _decoded(await connection.receive())
                    if reply.type != "error" or reply.action:
                        break
                    self._close_reason = reply.reason  # it is about to close
        except TimeoutError:
            raise _NotRecognized("; if it is a dwsps 1.0.1 server, its row has to say so") from None
        if reply.type != "hello":
            raise _NotRecognized()
        self._check_identity(reply)

    def _check_identity(self, hello: "_Reply") -> None:
        objection = self._claims.claim(self, hello.server_id) if hello.server_id else None
        if objection is not None:
            raise _PeerLoop(objection)

    async def _send(self, connection: Connection) -> None:
        try:
            while True:
                self._changed.clear()
                while (message := self.outbox.take()) is not None:
                    if message is self.outbox.awaited:
                        self._reset_reply_timeout()
                    await connection.send(message.frame)
                await self._changed.wait()
        except ConnectionClosed:
            pass  # the receiving side handles it

    def _handle_frame(self, frame: bytes) -> None:
        reply = _decoded(frame)
        match reply.type:
            case "ack" if reply.action == "publish":
                self._match_reply(reply)
                self.outbox.acknowledge()
                # However short a connection lasts: one that brings messages across is worth the next.
                self._backoff.progressed()
            case "error" if reply.action == "publish" and reply.code == FORBIDDEN:
                raise _NotRecognized()
            case "error" if reply.action == "publish" or reply.code in UNREADABLE:
                message = self._match_reply(reply)
                if reply.retryable:
                    raise _PeerUnavailable(f"the peer cannot take messages now: {reply.reason}")
                logger.log(
                    logging.DEBUG if self._refusal_logged else logging.WARNING,
                    "peer '%s': refused a message to '%s' for good: %s; more of this is counted only",
                    self.config.name,
                    printable(message.topic),
                    printable(reply.reason),
                )
                self._refusal_logged = True
                self.outbox.acknowledge(refused=True)
            case _:
                self._handle_unsolicited(reply)
                return
        self._reset_reply_timeout()
        self._changed.set()

    def _handle_unsolicited(self, reply: "_Reply") -> None:
        """Handle what is no reply."""
        if not self._unsolicited.take():
            raise _ProtocolViolation("the peer sends too much that nobody asked for")
        match reply.type:
            case "hello":
                self._check_identity(reply)  # one that was long on its way
            case "error" if not reply.action:
                self._close_reason = reply.reason

    def _match_reply(self, reply: "_Reply") -> ForwardedMessage:
        """The message that ``reply`` is about. Peers reply in order, those of dwsps 1.0.1 without an id."""
        message = self.outbox.awaited
        if message is None or reply.id not in (UNSET, message.sequence):
            raise _ProtocolViolation("the peer acknowledged what was not sent")
        return message

    def _enter(self, state: LinkState, problem: str) -> None:
        if state is not self._state:
            self._state, self._since = state, time()
        self._last_error = problem = printable(problem)
        name = self.config.name
        if state is LinkState.CONNECTED:
            self._logged = ""
            logger.info("peer '%s': connected, %d to forward", name, len(self.outbox))
        elif problem != self._logged:
            self._logged = problem
            logger.warning("peer '%s': %s: %s", name, state.label, problem)
        self._on_change(self)


class _PeerLoop(Exception):
    """The peer is this server itself, or one that another link leads to."""


class _NotRecognized(Exception):
    """The peer takes us for an ordinary client: it would refuse every message."""

    def __init__(self, hint: str = "") -> None:
        super().__init__(
            f"connects, but as an ordinary client: it does not know us as a peer{hint}"
        )


class _PeerUnavailable(Exception):
    """The peer takes no messages for now. The connection is replaced, and what was sent is sent again."""


class _ProtocolViolation(Exception):
    """The peer broke the protocol. The connection is replaced, and what was sent is sent again."""


class _Reply(Struct):
    """The fields of a peer's frame that a link uses."""

    type: str = ""
    action: str = ""
    code: str = ""
    id: Any | UnsetType = UNSET
    reason: str = ""
    retryable: bool = False
    server_id: str = ""


_decoder = msgspec.json.Decoder(_Reply)


def _decoded(frame: bytes) -> _Reply:
    try:
        return surrogates.decode(_decoder, frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise _ProtocolViolation("the peer said what cannot be understood") from None
