"""The broker of a server whose processes share a Django channel layer."""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from dwsps_channels.broker.channel_layer.batch import Batch
from dwsps_channels.broker.channel_layer.gap_detector import GapDetector
from dwsps_channels.broker.channel_layer.gossip import Gossip
from dwsps_channels.broker.channel_layer.layers import close_layer
from dwsps_channels.broker.sending.send_queue import (
    Outcome,
    SendQueue,
    Waiting,
    accept,
    refuse,
    refused,
)
from dwsps_channels.broker.sending.tasks import end
from dwsps_channels.core.broker import BrokerStats, Receiver
from dwsps_channels.core.publication import Publication
from dwsps_channels.logs.throttle import LogThrottle
from dwsps_channels.protocol.text import printable

if TYPE_CHECKING:
    from channels.layers import BaseChannelLayer

logger = logging.getLogger("dwsps_channels.broker")

# What every layer takes as a group's name: BaseChannelLayer.require_valid_group_name.
_GROUP_NAME = re.compile(r"[a-zA-Z\d\-_.]{1,99}")

# A publisher waits no longer for an answer once its batch has left.
SEND_TIMEOUT: Final = 5.0

# How long a stop waits for what was accepted to be sent. It takes longer only if the layer has just gone.
STOP_TIMEOUT: Final = 3.0

# Heartbeats in a row that may stay out before the others count as lost, and failures in a row before all connections
# are replaced. One is not enough: a process that was busy for a second, or a Redis that was, is not away.
TOLERATED: Final = 3

# One message that a layer takes at once. Large enough to make a round trip cheap, small enough not to hold up Redis.
MAX_BATCH_BYTES: Final = 256 * 1024

# Seconds between two attempts to receive, and between two complaints about what cannot be read.
_RETRY_PAUSE: Final = 0.1


class ChannelLayerBroker:
    """A member of one group of a channel layer, by one channel of its own.

    Publications that arrive while others are on their way leave together: throughput is not bound to one round trip
    each. All that leaves is numbered, so that every process notices what it missed.

    This process's own publications come back through the layer, too, and are delivered then. So all processes deliver
    in the layer's order, as far as it has one: the layer in memory and the pub/sub layer of channels-redis do; the core
    layer of channels-redis sorts by the senders' clocks. There is no log, so there are no offsets.

    A heartbeat renews the membership, tells the others how far this process is, and has to come back to it. If it
    does not, the connections are replaced until it does, and publications are refused meanwhile.

    ``make_layer`` makes a layer that nobody else uses: its connections are closed here. Give every process of the
    server the same ``group``, and another to each server that shares the layer: up to 99 ASCII letters, digits,
    ``-``, ``_``, ``.``. ``process_id`` is for the logs; it need not be unique. ``heartbeat`` is in seconds.
    Publications are refused while ``max_waiting`` of them wait to be sent, or ``max_waiting_bytes``.
    """

    def __init__(
        self,
        make_layer: "Callable[[], BaseChannelLayer]",
        *,
        process_id: str,
        group: str = "dwsps.broker",
        heartbeat: float = 1.0,
        max_waiting: int = 10_000,
        max_waiting_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        if not _GROUP_NAME.fullmatch(group):
            raise ValueError(f"not a name for a group: {group!r}")
        self._make_layer = make_layer
        self._process_id = process_id
        self._group = group
        self._heartbeat = heartbeat

        self.connected = False
        """True if the last heartbeats came back: this process reaches the layer, and is reached by it."""

        # Set by start.
        self._node: Receiver | None = None
        self._sender_id = ""
        self._keeper: asyncio.Task[None] | None = None
        self._heard = 0.0  # when a heartbeat last came back
        self._settled = asyncio.Event()  # it is known whether the layer can be reached
        self._stopping = False

        # The layer, our channel on it and the task that receives from it: each there once it could be made.
        self._layer: BaseChannelLayer | None = None
        self._channel: str | None = None
        self._receiver: asyncio.Task[None] | None = None

        # Outgoing. One task at a time sends, and only while there is something to send: numbers leave in order.
        self._queue = SendQueue(max_waiting, max_waiting_bytes)
        self._sender: asyncio.Task[None] | None = None
        self._number = 0  # of the next publication
        self._returned = 0  # of the next publication that has not come back
        # The answers to the batches that the layer has taken and that have not come back, with the number after each.
        self._sent: deque[tuple[int, list[Outcome]]] = deque()
        # Numbers of publications that were refused, so that they are not counted as missed.
        self._refused: list[range] = []
        self._beat_due = False

        # Incoming.
        self._detector = GapDetector()
        # The number of missed messages that the node knows of.
        self._told_missed = 0
        self._gossip = Gossip(self._detector, monotonic())
        self._receive_problem = ""  # why receiving failed since the last heartbeat came back
        self._throttle = LogThrottle()

        # The heartbeat that is under way: answered by anything of our own that comes back, or by what went wrong.
        self._echo: asyncio.Future[None] | None = None
        self._hurry = asyncio.Event()  # the next heartbeat is to leave at once

    def stats(self) -> BrokerStats:
        """See ``Broker.stats``."""
        return BrokerStats(
            connected=self.connected,
            waiting=len(self._queue),
            gaps=self._detector.gaps,
            missed=self._detector.missed,
        )

    async def start(self, receiver: Receiver) -> None:
        """Begin to receive: see ``Broker.start``. Takes at most some three heartbeats.

        Raises:
            RuntimeError: it was started before.
            Exception: what ``make_layer`` raises.
        """
        if self._node is not None:
            raise RuntimeError("a broker can be started once")
        self._layer = self._make_layer()
        self._node = receiver
        # Made here and not earlier: a process that was forked off a configured one is another sender.
        self._sender_id = f"{self._process_id}:{uuid4().hex}"
        self._heard = monotonic()
        self._detector.expect(self._sender_id, 0, self._heard)
        self._keeper = asyncio.create_task(self._keep())
        await self._settled.wait()

    def publish(self, publication: Publication, key: str = "") -> Outcome:
        """Hand over to every process: see ``Broker.publish``. Call it on the loop that ``start`` ran on.

        ``key`` has no effect: without a log nobody knows what was published before.
        """
        if self._stopping or self._node is None:
            return refused("the server is not running")
        if not self.connected:
            return refused("the server's other processes cannot be reached for now")
        answer = self._queue.enqueue(publication)
        self._hand_over()
        return answer

    async def stop(self) -> None:
        """Send what was accepted, then leave the group and close the layer: see ``Broker.stop``."""
        if self._stopping or self._node is None:
            return
        self._stopping = True
        if self._sender is not None:
            await asyncio.wait([self._sender], timeout=STOP_TIMEOUT)
        await end(self._keeper)
        await end(self._sender)
        self._queue.refuse("the server is stopping")
        self._accept_sent()
        self.connected = False
        self._settled.set()  # a start that is under way need not wait any longer
        await self._leave()

    # Outgoing

    def _hand_over(self) -> None:
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._beat_due or self._queue:
            heard = self._gossip.tell(monotonic()) if self._beat_due else {}
            self._beat_due = False
            waiting = self._queue.next_batch(MAX_BATCH_BYTES)
            publications = [each.publication for each in waiting]
            batch = Batch(self._sender_id, self._number, publications, heard=heard)
            # Never used again, even if sending fails: it may have arrived nevertheless.
            self._number += len(waiting)
            was_taken = False
            try:
                layer = self._layer
                assert layer is not None  # made before there is something to send
                # Cut off, nothing is sent but heartbeats; a new one is due before long.
                async with asyncio.timeout(SEND_TIMEOUT if self.connected else self._heartbeat):
                    await layer.group_send(self._group, batch.message())
                was_taken = True
            except Exception as error:
                # Those in line as well: they would only wait longer for the same.
                self._queue.refuse("the server's other processes could not be told")
                self._fail_beat(error)
                self._hurry.set()
            finally:
                self._settle(batch, waiting, was_taken)

    def _settle(self, batch: Batch, waiting: list[Waiting], was_taken: bool) -> None:
        if not waiting:
            return  # a heartbeat: nobody waits for an answer, and it has no number
        if was_taken or self._returned >= self._number:
            # Answered once it has come back, so that a publisher gets its own delivery before the ack.
            self._sent.append((self._number, [each.accepted for each in waiting]))
            if self.connected:
                self._accept_returned()
            else:
                self._accept_sent()  # nobody knows when anything comes back
        else:
            refuse(waiting, "the server's other processes could not be told")
            self._refused.append(range(batch.first, self._number))

    def _accept_returned(self) -> None:
        """Answer the publishers whose batches have come back, or never will: a later one has."""
        while self._sent and self._sent[0][0] <= self._returned:
            self._accept_first()

    def _accept_sent(self) -> None:
        """Answer the publishers of all that the layer has taken, whether it comes back or not."""
        while self._sent:
            self._accept_first()

    def _accept_first(self) -> None:
        for answer in self._sent.popleft()[1]:
            accept(answer)

    # Incoming

    async def _receive(self, layer: "BaseChannelLayer", channel: str) -> None:
        while True:
            try:
                message = await layer.receive(channel)
            except Exception as error:
                # The layer is away, or could not decode: the heartbeat will tell.
                self._receive_problem = _text(error)
                self._hurry.set()
                await asyncio.sleep(_RETRY_PAUSE)
            else:
                self._take(message)

    def _take(self, message: object) -> None:
        try:
            batch = Batch.from_message(message)
        except ValueError as error:
            self._complain(
                f"skipped a message that is not ours, or of another version: {_text(error)}"
            )
            return
        is_own = batch.sender == self._sender_id
        now = monotonic()
        if is_own:
            if self._echo is not None and not self._echo.done():
                self._echo.set_result(None)
            self._excuse(batch, now)
        else:
            if batch.sender not in self._detector:
                # It has just come, and cannot know what it misses of us before it has heard of us.
                self._hurry.set()
            self._gossip.hear(batch, now)
            if batch.heard:
                self._gossip.listen(batch.heard, now)
        assert self._node is not None  # nothing is received before start
        publications = self._detector.accept(batch, now)
        self._tell_of_gaps()
        for publication in publications:
            try:
                self._node.receive(publication, None)
            except Exception:
                logger.exception("a message of process %s could not be delivered", batch.sender)
        if is_own:
            self._returned = max(self._returned, batch.first + len(batch.publications))
            self._accept_returned()

    def _tell_of_gaps(self) -> None:
        """Tell the node if more were missed since the last call."""
        missed, self._told_missed = self._told_missed, self._detector.missed
        if self._detector.missed > missed and self._node is not None:
            try:
                self._node.miss()
            except Exception:
                logger.exception("missed messages could not be dealt with")

    def _excuse(self, batch: Batch, now: float) -> None:
        """Expect ``batch`` next if all that is missing before it was refused: its publishers know."""
        if self._sender_id not in self._detector:
            return
        expected = self._detector.next_number(self._sender_id)
        missing = set(range(expected, batch.first)).difference(*self._refused)
        self._refused = [numbers for numbers in self._refused if numbers.stop > batch.first]
        if not missing and expected < batch.first:
            self._detector.expect(self._sender_id, batch.first, now)

    def _complain(self, problem: str) -> None:
        # Once a minute: what is wrong with one message is as a rule wrong with every one.
        if self._throttle.is_due():
            logger.warning("on group %s: %s", self._group, problem)

    # Membership

    async def _keep(self) -> None:
        """Stay a member, whatever happens to the layer."""
        failures = 0  # in a row
        while True:
            due = monotonic() + self._heartbeat
            self._hurry.clear()
            try:
                await self._beat()
            except Exception as error:
                failures += 1
                # An error is certain, a heartbeat that stays out is not.
                if not isinstance(error, TimeoutError) or failures >= TOLERATED:
                    self._lost(_text(error))
                if failures % TOLERATED == 0:
                    await end(self._sender)
                    await self._leave()
            else:
                failures = 0
                self._found()
            with suppress(TimeoutError):
                if self.connected:
                    async with asyncio.timeout(due - monotonic()):
                        await self._hurry.wait()
                else:
                    await asyncio.sleep(self._heartbeat / 4)

    async def _beat(self) -> None:
        """Send one heartbeat and wait for it.

        Raises:
            TimeoutError: it did not come back in time.
            Exception: what the layer raised.
        """
        try:
            async with asyncio.timeout(self._heartbeat):
                await self._join()
                self._echo = asyncio.get_running_loop().create_future()
                self._beat_due = True
                self._hand_over()
                await self._echo
        except TimeoutError:
            raise TimeoutError(f"no answer within {self._heartbeat:g} s") from None

    def _fail_beat(self, error: Exception) -> None:
        if self._echo is not None and not self._echo.done():
            self._echo.set_exception(error)
            self._echo.exception()  # looked at, should the heartbeat be given up in this moment

    async def _join(self) -> None:
        if self._layer is None:
            self._layer = self._make_layer()
        if self._channel is None:
            self._channel = await self._layer.new_channel()
            self._receiver = asyncio.create_task(self._receive(self._layer, self._channel))
        # Each time: a Redis that was restarted has forgotten the group, and nothing else would tell.
        await self._layer.group_add(self._group, self._channel)

    async def _leave(self) -> None:
        """Undo ``_join``, as far as that is possible now. Bounded in time, and never raises."""
        layer = self._layer
        if layer is None:
            return
        if self._channel is not None:
            with suppress(Exception):
                async with asyncio.timeout(self._heartbeat):
                    await layer.group_discard(self._group, self._channel)
        like_new = False
        with suppress(Exception):
            async with asyncio.timeout(self._heartbeat):
                like_new = await close_layer(layer, self._receiver)
        self._layer = layer if like_new else None
        self._channel = None
        self._receiver = None

    def _found(self) -> None:
        now = monotonic()
        if not self.connected:
            self.connected = True
            if self._settled.is_set():
                away = now - self._heard
                logger.info("the other processes can be reached again, after %.1f s", away)
        elif self._receive_problem:
            self._complain(f"receiving failed: {self._receive_problem}")
        self._receive_problem = ""
        self._gossip.check(now)
        self._tell_of_gaps()
        self._heard = now
        self._settled.set()

    def _lost(self, problem: str) -> None:
        if self._settled.is_set() and not self.connected:
            return  # known, and logged
        self.connected = False
        logger.warning("the server's other processes cannot be reached: %s; trying on", problem)
        self._queue.refuse("the server's other processes cannot be reached for now")
        self._accept_sent()
        self._settled.set()


def _text(error: Exception) -> str:
    return printable(str(error)) or type(error).__name__
