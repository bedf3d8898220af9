"""The link to one peer. It reads the log ahead, and connects again whenever the connection is lost."""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic, time

from dwsps_channels.client import (
    Backoff,
    ConnectError,
    ConnectionClosed,
    Refused,
    open_connection,
)
from dwsps_channels.core.timings import Timings
from dwsps_channels.peering.outbound.claims import ServerClaims
from dwsps_channels.peering.outbound.config import PeerConfig
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStats, LinkStatus
from dwsps_channels.peering.outbound.message import ForwardedMessage, MessagePage
from dwsps_channels.peering.outbound.peer_connection import (
    NotRecognized,
    PeerConnection,
    PeerLoop,
    PeerUnavailable,
    ProtocolViolation,
)
from dwsps_channels.peering.outbound.refusal import TOO_MANY, reason_of
from dwsps_channels.peering.outbound.send_gate import SendGate
from dwsps_channels.peering.outbound.shared_source import SharedSource
from dwsps_channels.peering.outbound.window import Window
from dwsps_channels.protocol.close_codes import TOO_BIG
from dwsps_channels.protocol.text import printable

logger = logging.getLogger("dwsps_channels.peering")

STABLE_INTERVAL = 30.0

# A loop remains one until somebody changes a row.
LOOP_RETRY_INTERVAL = 30.0

# The reason of a refusal is determined again after this time: the other side may have fixed one of two faults.
REASON_INTERVAL = 60.0

# How often a link with a full window looks how much more there is in the log.
LOOK_INTERVAL = 1.0

# Replies are small: a peer has no reason to send a frame of this size.
MAX_REPLY_BYTES = 1024 * 1024


class Link:
    """Forwards what follows a position in the log to one peer. ``run`` never ends by itself: cancel it."""

    def __init__(
        self,
        config: PeerConfig,
        window: Window,
        source: SharedSource,
        claims: ServerClaims,
        *,
        gate: SendGate,
        timings: Timings,
        on_change: Callable[["Link"], None] = lambda link: None,
        backoff: Backoff | None = None,
    ) -> None:
        """Go on reading where ``window`` has read to. ``on_change`` is called whenever ``state`` is set."""
        self.config = config
        self.window = window
        self._source = source
        self._claims = claims
        self._gate = gate
        self._timings = timings
        self._on_change = on_change
        self._backoff = backoff or Backoff(
            timings.LINK_BACKOFF_BASE, timings.LINK_BACKOFF_CAP, stable_after=STABLE_INTERVAL
        )
        self._state = LinkState.CONNECTING
        self._since = time()
        self._last_error = ""
        # The problem in the log: one that repeats with each attempt is logged once.
        self._logged = ""
        self._reading: asyncio.Task[None] | None = None
        self._connection: PeerConnection | None = None
        self._connections = 0
        # The status of the last refused handshake, its reason, and when that was determined, by ``monotonic``.
        self._refused: tuple[int, str, float] | None = None

    @property
    def state(self) -> LinkState:
        """The current state."""
        return self._state

    @property
    def is_finished(self) -> bool:
        """True once it reads no more, and the peer has acknowledged everything."""
        return self._reading is None and not len(self.window)

    def wants(self, message: ForwardedMessage) -> bool:
        """Return whether ``message`` is for this peer, according to its row."""
        if message.at < self.config.enabled_at:
            return False
        topics = self.config.topics
        return not topics or any(
            message.topic == topic or message.topic.startswith(topic + ".") for topic in topics
        )

    def stats(self) -> LinkStats:
        """Return the counters as they are now."""
        window = self.window
        return LinkStats(
            waiting=window.waiting,
            in_flight=window.in_flight,
            forwarded=window.forwarded,
            acked=window.acked,
            resent=window.resent,
            dropped=window.dropped,
            missed=window.missed,
            reconnects=max(0, self._connections - 1),
        )

    def status(self) -> LinkStatus:
        """Return a snapshot of the link."""
        return LinkStatus(
            state=self._state,
            since=self._since,
            last_error=self._last_error,
            round_trip=self._connection.round_trip if self._connection else None,
            stats=self.stats(),
            position=self.window.position,
            lag=self.window.lag,
            oldest_at=self.window.oldest_at,
        )

    async def run(self) -> None:
        """Read and forward until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._reading = tasks.create_task(self._read())
                tasks.create_task(self._keep_connected())
        finally:
            self._claims.release(self.config)
            self._enter(LinkState.DISABLED, self._last_error)

    def stop_reading(self) -> None:
        """Read no more of the log. What was read is forwarded."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    async def _read(self) -> None:
        # Also while the peer is away: the lag is to be known.
        while True:
            try:
                await self._wait_for_room()
                self._take(await self._source.read(self.window.read_to))
            except Exception:
                # A defect of ours. It is shown: otherwise forwarding would just stop.
                logger.exception(
                    "the link to peer '%s' cannot read on; trying again", self.config.name
                )
                await asyncio.sleep(LOOK_INTERVAL)

    async def _wait_for_room(self) -> None:
        """Wait until the window has room for a page; meanwhile measure how much more there is in the log."""
        while not self.window.room.is_set():
            try:
                async with asyncio.timeout(LOOK_INTERVAL):
                    await self.window.room.wait()
            except TimeoutError:
                self.window.measure(await self._source.look(self.window.read_to))

    def _take(self, read: MessagePage) -> None:
        """Take from a page what is for this peer."""
        # A loop keeps nothing. If it ends, the link starts with what is published from then on.
        is_loop = self._state is LinkState.LOOP
        if not is_loop:
            for message in read.messages:
                if self.wants(message):
                    self.window.put(message)
        self.window.advance(read.page, counts=not is_loop)
        if read.messages and self._connection is not None:
            self._connection.wake()

    async def _keep_connected(self) -> None:
        while True:
            self._enter(LinkState.CONNECTING, self._last_error)
            delay = await self._connect()
            logger.debug("peer '%s': next attempt in %.1f s", self.config.name, delay)
            await asyncio.sleep(delay)

    async def _connect(self) -> float:
        """Forward over one connection until it is lost; return the seconds to wait before the next one."""
        code: int | None = None
        state = LinkState.BACKING_OFF
        try:
            await self._forward()
        except PeerLoop as error:
            self.window.clear()
            self._enter(LinkState.LOOP, str(error))
            return LOOP_RETRY_INTERVAL
        except Refused as refused:
            problem = await self._reason_of(refused)
            # 429: others at our address guess secrets. From 500 on: a proxy reports that the server is down.
            if refused.status < 500 and refused.status != TOO_MANY:
                state = LinkState.REFUSED
        except ConnectError as error:
            problem = error.problem
        except ConnectionClosed as closed:
            code, problem = closed.code, self._problem_of(closed)
            if 4000 <= code < 4100:
                # The code asks us to stay away, but our row there may change: the link tries now and then.
                code, state = None, LinkState.REFUSED
        except NotRecognized as error:
            # The messages stay: the peer may recognize us once its row is corrected.
            problem, state = str(error), LinkState.REFUSED
        except (PeerUnavailable, ProtocolViolation) as error:
            problem = printable(str(error))
        except ValueError as error:
            problem = str(error)  # the row has an invalid URL; the text does not repeat it
        except Exception as error:
            # A defect of ours. It is shown: otherwise forwarding would just stop.
            logger.exception("the link to peer '%s' failed; it connects again", self.config.name)
            problem = f"the link failed: {type(error).__name__}"
        finally:
            self._connection = None
            self.window.rewind()
        self._enter(state, problem)
        return self._backoff.delay(code) or 0.0

    async def _forward(self) -> None:
        async with open_connection(
            self.config.url,
            token=self.config.secret or None,
            open_timeout=self._timings.LINK_OPEN_TIMEOUT,
            heartbeat=self._timings.LINK_HEARTBEAT_INTERVAL,
            heartbeat_timeout=self._timings.LINK_HEARTBEAT_TIMEOUT,
            max_size=MAX_REPLY_BYTES,
        ) as connection:
            self._backoff.opened()
            self._connection = PeerConnection(
                connection,
                self.config,
                self.window,
                self._gate,
                check_identity=self._check_identity,
                # However short a connection lasts: if it brings messages across, the next one is worth trying.
                on_ack=self._backoff.progressed,
                reply_timeout=self._timings.LINK_ANSWER_TIMEOUT,
            )
            await self._connection.greet()
            self._refused = None
            self._connections += 1
            self._enter(LinkState.CONNECTED, "")
            await self._connection.forward()

    def _check_identity(self, server_id: str) -> None:
        if (objection := self._claims.claim(self.config, server_id)) is not None:
            raise PeerLoop(objection)

    def _problem_of(self, closed: ConnectionClosed) -> str:
        # Some servers drop the reason from the close; ours sends it before, in an error.
        announced = self._connection.close_reason if self._connection else ""
        if closed.code == TOO_BIG and not closed.by_server:
            return f"sent a frame of more than {MAX_REPLY_BYTES} bytes"
        if closed.code == TOO_BIG and (largest := self.window.drop_largest()) is not None:
            # Sent again, it would end every connection, and nothing would get past it.
            return f"takes no message of {len(largest.frame)} bytes, dropped it"
        return printable(str(ConnectionClosed(closed.code, closed.reason or announced)))

    async def _reason_of(self, refused: Refused) -> str:
        """Return why the peer refuses. That takes another connection, so it is determined once a minute."""
        if self._refused is not None:
            status, reason, found_at = self._refused
            if status == refused.status and monotonic() - found_at < REASON_INTERVAL:
                return reason
        reason = await reason_of(refused, self.config)
        self._refused = refused.status, reason, monotonic()
        return reason

    def _enter(self, state: LinkState, problem: str) -> None:
        if state is not self._state:
            self._state, self._since = state, time()
        self._last_error = problem = printable(problem)
        name = self.config.name
        if state is LinkState.CONNECTED:
            self._logged = ""
            logger.info("peer '%s': connected, %d to forward", name, self.window.lag)
        elif problem != self._logged:
            self._logged = problem
            logger.warning("peer '%s': %s: %s", name, state.label, problem)
        self._on_change(self)
