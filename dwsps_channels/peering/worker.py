"""The worker, which ``manage.py runpubsub`` runs: it forwards to the peers, unless another worker does."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from channels.db import database_sync_to_async

from dwsps_channels.client.address import Address
from dwsps_channels.conf import conf
from dwsps_channels.core.log_source import LogSource
from dwsps_channels.models import server_id
from dwsps_channels.models.process_name import new_process_name
from dwsps_channels.peering import lease, store
from dwsps_channels.peering.inbound.worker_credentials import Purpose, sign_worker
from dwsps_channels.peering.link_signals import LinkSignals
from dwsps_channels.peering.outbound.forwarder import Forwarder
from dwsps_channels.peering.outbound.send_gate import SendGate
from dwsps_channels.peering.outbound.server_feed import ServerFeed

logger = logging.getLogger("dwsps_channels.worker")

# How long the peers may take, at the end, to acknowledge what was sent, and receivers of signals for the last ones.
FLUSH_GRACE = 6.0
SIGNALS_GRACE = 1.0


class LeasedTask(Protocol):
    """Further work that one worker at a time does: the one that has the lease."""

    work: str
    """The words for it in the log: "publishing …"."""

    async def is_wanted(self) -> bool:
        """Return whether there is work now. A worker without peers asks, to know whether it needs the lease."""
        ...

    async def run(self) -> None:
        """Do it until cancelled: failures are its own."""
        ...


class Worker:
    """Forwards while it holds the lease; stands by while another worker does."""

    def __init__(
        self,
        source: str | Callable[[], LogSource],
        task: LeasedTask | None = None,
        *,
        reads_from: str = "its log",
    ) -> None:
        """Forward what is published on this server, and do ``task`` meanwhile.

        ``source`` makes the source from which the log is read, whenever this worker begins to forward, and
        ``reads_from`` describes it for operators; or it is the URL of the server's websocket, over which the log is read.

        Raises:
            ValueError: the URL cannot be one.
        """
        self._source = source
        self._task = task
        # The server, for the log.
        self._shown = (
            Address.parse(source).shown
            if isinstance(source, str)
            else f"this server, read from {reads_from}"
        )
        self._timings = conf.TIMINGS
        self._holder = new_process_name()
        self._stopping = asyncio.Event()
        # What the log says last: what this worker does, or why it does nothing. And the end of another worker's lease.
        self._logged = ""
        self._lease_end: datetime | None = None

    def stop(self) -> None:
        """Have ``run`` send what it can, and return."""
        self._stopping.set()

    async def run(self) -> None:
        """Forward, or stand by, until ``stop``. Without peers to forward to, or other work, nothing is written to the database."""
        while not self._stopping.is_set():
            try:
                gate = SendGate(self._timings.LEASE_TIMEOUT)
                work = await self._work()
                if work and await database_sync_to_async(lease.acquire)(
                    self._holder, self._timings.LEASE_TIMEOUT
                ):
                    self._logged, self._lease_end = "", None
                    self._log_once(work)
                    await self._forward(gate)
                    continue
                lease_end = await database_sync_to_async(lease.expiry)() if work else None
            except Exception:
                # Usually the database is away. The lease was given back, as another worker may have better luck.
                logger.exception("forwarding is not possible for now; trying again")
            else:
                self._log_why_not(lease_end)
            await self._pause(self._timings.LEASE_RENEW_INTERVAL)

    async def _work(self) -> str:
        """Describe what there is to do with the lease; empty: nothing."""
        if await database_sync_to_async(store.has_peers)():
            return f"forwarding the publications of {self._shown}"
        if self._task is not None and await self._task.is_wanted():
            return f"no peer to forward to; {self._task.work}"
        return ""

    def _log_why_not(self, lease_end: datetime | None) -> None:
        """Log once why this worker does not forward: another has the lease, or there are no peers (``None``)."""
        reason = "no peer to forward to; waiting for one"
        if lease_end is not None:
            reason = "another worker is forwarding; standing by"
            before, self._lease_end = self._lease_end, lease_end
            if before is None or lease_end <= before:
                # Perhaps nobody renews it: it may be left from a killed worker, and then ends by itself.
                return
        self._log_once(reason)

    def _log_once(self, what: str) -> None:
        if what != self._logged:
            self._logged = what
            logger.info(what)

    async def _forward(self, gate: SendGate) -> None:
        link_signals = LinkSignals()
        try:
            forwarder = await self._make_forwarder(gate, link_signals)
        except BaseException:
            await self._release()
            raise
        running = asyncio.create_task(forwarder.run())
        lost = asyncio.create_task(self._renew(gate))
        watching = asyncio.create_task(gate.watch())
        stopping = asyncio.create_task(self._stopping.wait())
        sending = asyncio.create_task(link_signals.send())
        others = [] if self._task is None else [asyncio.create_task(self._task.run())]
        try:
            await asyncio.wait((running, lost, stopping), return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                if not lost.result():
                    logger.warning("the lease was lost to another worker; standing by")
            elif stopping.done():
                # Take in nothing more, so that the flush can end.
                await _end(running)
                flushing = asyncio.create_task(forwarder.flush(FLUSH_GRACE))
                try:
                    # Once another worker has the lease, it sends what is left.
                    await asyncio.wait((flushing, lost), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    await _end(flushing)
                if not flushing.cancelled():
                    if left := flushing.result():
                        logger.info(
                            "stopping with %d messages that peers have not acknowledged", left
                        )
                elif not lost.result():
                    logger.warning("the lease was lost to another worker while stopping")
        finally:
            is_ours = not lost.done() or lost.result()
            await _end(running, stopping, *others)
            await forwarder.close(write=is_ours)
            await _end(lost, watching)
            if is_ours:
                await self._release()
            await link_signals.finish(SIGNALS_GRACE)
            await _end(sending)
        if not running.cancelled():
            await running  # raises its error

    async def _make_forwarder(self, gate: SendGate, link_signals: LinkSignals) -> Forwarder:
        own_id = await database_sync_to_async(server_id)()
        return Forwarder(
            store.DatabaseStore(self._holder),
            server_id=own_id,
            source=self._make_source(own_id),
            gate=gate,
            timings=self._timings,
            on_change=link_signals.put,
        )

    def _make_source(self, own_id: str) -> LogSource:
        if isinstance(self._source, str):
            return ServerFeed(self._source, partial(sign_worker, own_id, Purpose.FORWARD))
        return self._source()

    async def _release(self) -> None:
        try:
            await database_sync_to_async(lease.release)(self._holder)
        except Exception:
            logger.exception("the lease could not be released; it expires by itself")

    async def _renew(self, gate: SendGate) -> bool:
        """Renew the lease. Return ``False`` when it is lost, ``True`` when nothing needs it."""
        while True:
            await asyncio.sleep(self._timings.LEASE_RENEW_INTERVAL)
            asked_at = gate.now()
            try:
                if not await database_sync_to_async(lease.acquire)(
                    self._holder, self._timings.LEASE_TIMEOUT
                ):
                    return False
                gate.verify(asked_at)
                if not (work := await self._work()):
                    return True
                self._log_once(work)
            except Exception:
                # While the database is away, no other worker can take the lease.
                gate.fail()
                logger.exception("the lease could not be renewed; forwarding continues")

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
