"""One connection to a peer: the greeting, messages out, replies in."""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from dwsps_channels.client import Connection, ConnectionClosed
from dwsps_channels.core.rate_limit import TokenBucket
from dwsps_channels.peering.outbound.config import PeerConfig
from dwsps_channels.peering.outbound.message import ForwardedMessage
from dwsps_channels.peering.outbound.send_gate import SendGate
from dwsps_channels.peering.outbound.window import Window
from dwsps_channels.protocol import surrogates
from dwsps_channels.protocol.text import printable

logger = logging.getLogger("dwsps_channels.peering")

# A server of ours that recognizes the secret sends its hello at once.
HELLO_TIMEOUT = 5.0

# Frames that a peer may send beside its replies, a second and at once. It has no reason to send more than a hello.
UNSOLICITED_RATE = 10.0
UNSOLICITED_BURST = 100

# The one reason to forbid a peer's publish: the server takes it for a client, which may not send fromPeerServer
# (docs/reference/protocol.md, P2).
FORBIDDEN = "forbidden"

# Errors with these codes reply to a publish even if the peer could not tell which one.
UNREADABLE = frozenset({"invalid_json", "invalid_message", "message_too_deep", "message_too_large"})


class PeerLoop(Exception):
    """The peer is this server itself, or one that another link leads to."""


class NotRecognized(Exception):
    """The peer takes us for an ordinary client: it would reject every message."""

    def __init__(self, hint: str = "") -> None:
        super().__init__(
            f"connects, but as an ordinary client: it does not know us as a peer{hint}"
        )


class PeerUnavailable(Exception):
    """The peer takes no messages for now."""


class ProtocolViolation(Exception):
    """The peer broke the protocol."""


class PeerConnection:
    """Sends the messages of a window over one connection, and handles the replies of the peer.

    ``forward`` ends with an exception only: one of this module, or ``ConnectionClosed``. Then ``window.rewind`` has
    everything sent again that was not acknowledged.
    """

    def __init__(
        self,
        connection: Connection,
        peer: PeerConfig,
        window: Window,
        gate: SendGate,
        *,
        check_identity: Callable[[str], None],
        on_ack: Callable[[], None],
        reply_timeout: float,
    ) -> None:
        """Use ``connection``, which is open.

        ``check_identity`` gets the server's id, and raises ``PeerLoop`` if the connection must not be used. ``on_ack`` is
        called for each acknowledged message. ``reply_timeout`` (seconds) limits the wait for the next reply.
        """
        self._connection = connection
        self._peer = peer
        self._window = window
        self._gate = gate
        self._check_identity = check_identity
        self._on_ack = on_ack
        self._reply_timeout = reply_timeout
        self.close_reason = ""
        """The reason of the peer for closing the connection soon, if it sent one."""
        # Whether a rejection was logged: a peer that rejects everything must not fill the log.
        self._is_rejection_logged = False
        self._unsolicited = TokenBucket(UNSOLICITED_RATE, UNSOLICITED_BURST, monotonic)
        # Ends the connection if no reply comes in time. Set while ``forward`` runs.
        self._deadline: asyncio.Timeout | None = None
        self._changed = asyncio.Event()

    @property
    def round_trip(self) -> float | None:
        """The round trip of the last heartbeat in seconds."""
        return self._connection.latency

    def wake(self) -> None:
        """Look again for a message to send."""
        self._changed.set()

    async def greet(self) -> None:
        """Wait for the hello, if the peer is a server of ours that gets a secret in the header: it sends one.

        Raises:
            ConnectionClosed, NotRecognized, PeerLoop, ProtocolViolation: the connection is of no use.
        """
        if not self._peer.secret or self._peer.dwsps:
            return
        try:
            async with asyncio.timeout(HELLO_TIMEOUT):
                while True:
                    reply = _decode(await self._connection.receive())
                    if reply.type != "error" or reply.action:
                        break
                    self.close_reason = reply.reason
        except TimeoutError:
            raise NotRecognized("; if it is a dwsps 1.0.1 server, its row has to say so") from None
        if reply.type != "hello":
            raise NotRecognized()
        self._handle_hello(reply)

    async def forward(self) -> None:
        """Send messages and handle replies until the connection is lost.

        Raises:
            ConnectionClosed, NotRecognized, PeerLoop, PeerUnavailable, ProtocolViolation: always one of them.
        """
        sending = asyncio.create_task(self._send())
        try:
            async with asyncio.timeout(None) as self._deadline:
                while True:
                    self._handle_frame(await self._connection.receive())
        except TimeoutError:
            raise PeerUnavailable(
                f"no message was answered for {self._reply_timeout:g} s"
            ) from None
        finally:
            self._deadline = None
            sending.cancel()
            await asyncio.wait([sending])

    async def _send(self) -> None:
        try:
            while True:
                self._changed.clear()
                await self._gate.opened()
                while self._gate.is_open and (message := self._window.take()) is not None:
                    if message is self._window.awaited:
                        self._restart_deadline()
                    await self._connection.send(message.frame)
                if self._gate.is_open:
                    await self._changed.wait()
        except ConnectionClosed:
            pass  # the receiving side handles it

    def _restart_deadline(self) -> None:
        """Allow the full time for the next reply. Frames that are not replies do not extend it."""
        if self._deadline is not None:
            due = asyncio.get_running_loop().time() + self._reply_timeout
            self._deadline.reschedule(due if self._window.awaited is not None else None)

    def _handle_frame(self, frame: bytes) -> None:
        reply = _decode(frame)
        match reply.type:
            case "ack" if reply.action == "publish":
                self._match_reply(reply)
                self._window.acknowledge()
                self._on_ack()
            case "error" if reply.action == "publish" and reply.code == FORBIDDEN:
                raise NotRecognized()
            case "error" if reply.action == "publish" or reply.code in UNREADABLE:
                self._handle_rejection(reply)
            case _:
                self._handle_unsolicited(reply)
                return
        self._restart_deadline()
        self._changed.set()

    def _handle_rejection(self, reply: "_Reply") -> None:
        message = self._match_reply(reply)
        if reply.retryable:
            raise PeerUnavailable(f"the peer cannot take messages now: {reply.reason}")
        logger.log(
            logging.DEBUG if self._is_rejection_logged else logging.WARNING,
            "peer '%s': refused a message to '%s' for good: %s; further ones are only counted",
            self._peer.name,
            printable(message.topic),
            printable(reply.reason),
        )
        self._is_rejection_logged = True
        self._window.acknowledge(refused=True)

    def _handle_unsolicited(self, reply: "_Reply") -> None:
        if not self._unsolicited.take():
            raise ProtocolViolation("the peer sends too many unsolicited frames")
        match reply.type:
            case "hello":
                self._handle_hello(reply)  # a late one
            case "error" if not reply.action:
                self.close_reason = reply.reason

    def _handle_hello(self, hello: "_Reply") -> None:
        if hello.server_id:
            self._check_identity(hello.server_id)

    def _match_reply(self, reply: "_Reply") -> ForwardedMessage:
        """Return the message that ``reply`` is about. Replies come in order; those of dwsps 1.0.1 have no id."""
        message = self._window.awaited
        if message is None or reply.id not in (UNSET, message.sequence):
            raise ProtocolViolation("the peer acknowledged a message that was not sent")
        return message


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


def _decode(frame: bytes) -> _Reply:
    try:
        return surrogates.decode(_decoder, frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise ProtocolViolation("the peer sent a frame that cannot be decoded") from None
