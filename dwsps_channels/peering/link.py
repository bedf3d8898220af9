"""The connection to one peer: made again whenever it is lost, and nothing lost with it."""

import asyncio
import logging
from collections.abc import Callable
from time import time
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
from dwsps_channels.peering.config import PeerConfig
from dwsps_channels.peering.health import PeerHealth, State
from dwsps_channels.peering.outbox import Outbox, Outgoing

logger = logging.getLogger("dwsps_channels.peering")

BACKOFF_BASE = 0.5
BACKOFF_CAP = 30.0
STABLE_SECONDS = 30.0
HEARTBEAT_SECONDS = 20.0
HEARTBEAT_TIMEOUT = 20.0

# A server of ours says hello with its first frame. Who says nothing for so long is a dwsps 1.0.1 server.
HELLO_SECONDS = 1.0

# A loop stays one until somebody changes a row.
LOOP_SECONDS = 30.0


class Claims(Protocol):
    """Who leads where: no two links may lead to the same server."""

    def claim(self, link: "Link", server_id: str) -> str | None:
        """Ask for ``server_id``; why ``link`` may not have it, or ``None``: it is its own until released."""

    def release(self, link: "Link") -> None:
        """Give back what was claimed."""


class Link:
    """Forwards to one peer what is put in its outbox. ``run`` never ends by itself: cancel it."""

    def __init__(
        self,
        config: PeerConfig,
        outbox: Outbox,
        claims: Claims,
        *,
        on_change: Callable[["Link"], None] = lambda link: None,
        backoff: Backoff | None = None,
    ) -> None:
        self.config = config
        self.outbox = outbox
        self._claims = claims
        self._on_change = on_change
        self._backoff = backoff or Backoff(BACKOFF_BASE, BACKOFF_CAP, stable_after=STABLE_SECONDS)
        self._state = State.CONNECTING
        self._since = time()
        self._last_error = ""
        # What the log has last said of it: the same is said once, however often it is tried.
        self._logged = ""
        self._connection: Connection | None = None
        self._changed = asyncio.Event()

    @property
    def state(self) -> State:
        """What the link is at."""
        return self._state

    def wants(self, message: Outgoing) -> bool:
        """Whether this peer is to get ``message``, as far as its row says."""
        if message.at < self.config.enabled_at:
            return False
        topics = self.config.topics
        return not topics or any(
            message.topic == topic or message.topic.startswith(topic + ".") for topic in topics
        )

    def put(self, message: Outgoing) -> None:
        """Forward ``message``, if the peer is to get it."""
        # What leads nowhere of use need not be kept; once it does, it starts with what comes then.
        if self._state is not State.LOOP and self.wants(message):
            self.outbox.put(message)
            self._changed.set()

    def health(self) -> PeerHealth:
        """How the link is now."""
        outbox = self.outbox
        return PeerHealth(
            state=self._state,
            since=self._since,
            last_error=self._last_error,
            round_trip=self._connection.latency if self._connection else None,
            forwarded=outbox.forwarded,
            acked=outbox.acked,
            queued=len(outbox),
            dropped=outbox.dropped,
            resent=outbox.resent,
            position=dict(outbox.position),
        )

    async def run(self) -> None:
        """Connect, forward, and connect again, until cancelled."""
        while True:
            self._enter(State.CONNECTING, self._last_error)
            delay = await self._connect()
            logger.debug("peer '%s': next attempt in %.1f s", self.config.name, delay)
            await asyncio.sleep(delay)

    async def _connect(self) -> float:
        """Forward over one connection, until it is lost; the seconds to wait before the next one."""
        code: int | None = None
        state = State.BACKING_OFF
        try:
            async with open_connection(
                self.config.url,
                token=self.config.secret or None,
                heartbeat=HEARTBEAT_SECONDS,
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
            ) as connection:
                self._backoff.opened()
                self._connection = connection
                await self._forward(connection)
        except _Loop as loop:
            self.outbox.clear()
            self._enter(State.LOOP, str(loop))
            return LOOP_SECONDS
        except Refused as refused:
            state, problem = State.REFUSED, refused.problem
        except ConnectError as error:
            problem = error.problem
        except ConnectionClosed as closed:
            code, problem = closed.code, str(closed)
            if 4000 <= code < 4100:
                # It is told to stay away; but the peer's row there may change again, so it asks now and then.
                code, state = None, State.REFUSED
        except _Confused as confused:
            problem = str(confused)
        finally:
            self._connection = None
            self._claims.release(self)
            self.outbox.rewind()
        self._enter(state, problem)
        return self._backoff.delay(code) or 0.0

    async def _forward(self, connection: Connection) -> None:
        answer = await self._greeting(connection)
        self._enter(State.CONNECTED, "")
        sending = asyncio.create_task(self._send(connection))
        try:
            while True:
                if answer is not None:
                    self._understand(answer)
                answer = await connection.receive()
        finally:
            sending.cancel()
            await asyncio.wait([sending])

    async def _greeting(self, connection: Connection) -> bytes | None:
        """Wait for the hello of a server of ours; gives a frame that is something else."""
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                frame = await connection.receive()
        except TimeoutError:
            return None
        answer = _decoded(frame)
        if answer.type != "hello":
            return frame
        if (objection := self._claims.claim(self, answer.server_id)) is not None:
            raise _Loop(objection)
        return None

    async def _send(self, connection: Connection) -> None:
        try:
            while True:
                self._changed.clear()
                while (message := self.outbox.take()) is not None:
                    await connection.send(message.frame)
                await self._changed.wait()
        except ConnectionClosed:
            pass  # whoever receives is told, too

    def _understand(self, frame: bytes) -> None:
        answer = _decoded(frame)
        match answer.type:
            case "ack" if answer.action == "publish":
                self._expect(answer)
                self.outbox.acknowledge()
            case "error" if answer.action == "publish":
                message = self._expect(answer)
                if answer.retryable:
                    raise _Confused(f"the peer cannot take messages now: {answer.reason}")
                logger.warning(
                    "peer '%s': refused a message to '%s' for good: %s",
                    self.config.name,
                    message.topic,
                    answer.reason,
                )
                self.outbox.acknowledge(refused=True)
            case _:
                return  # a farewell, or a delivery that nobody asked for
        self._changed.set()

    def _expect(self, answer: "_Answer") -> Outgoing:
        """The message that ``answer`` is about. Peers answer in order, those of dwsps 1.0.1 without an id."""
        message = self.outbox.awaited
        if message is None or answer.id not in (UNSET, message.number):
            raise _Confused("the peer acknowledged what was not sent")
        return message

    def _enter(self, state: State, problem: str) -> None:
        if state is not self._state:
            self._state, self._since = state, time()
        self._last_error = problem
        name = self.config.name
        if state is State.CONNECTED:
            self._logged = ""
            logger.info("peer '%s': connected, %d to forward", name, len(self.outbox))
        elif problem != self._logged:
            self._logged = problem
            logger.warning("peer '%s': %s: %s", name, state.replace("_", " "), problem)
        self._on_change(self)


class _Loop(Exception):
    """The link leads where it must not."""


class _Confused(Exception):
    """The connection is of no use as it is: it is made anew, and what was sent is sent again."""


class _Answer(Struct):
    """What a peer says, as far as a link cares."""

    type: str = ""
    action: str = ""
    id: Any | UnsetType = UNSET
    reason: str = ""
    retryable: bool = False
    server_id: str = ""


_decode = msgspec.json.Decoder(_Answer).decode


def _decoded(frame: bytes) -> _Answer:
    try:
        return _decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise _Confused("the peer said what cannot be understood") from None
