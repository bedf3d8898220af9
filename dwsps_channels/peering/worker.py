"""The worker: what ``manage.py runpubsub`` runs. Forwards to the peers, if no other worker does."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any
from uuid import uuid4

from asgiref.sync import ThreadSensitiveContext
from channels.db import aclose_old_connections, database_sync_to_async
from django.dispatch import Signal

from dwsps_channels import signals
from dwsps_channels.conf import conf
from dwsps_channels.models import server_id
from dwsps_channels.peering import lease, store
from dwsps_channels.peering.inbound.worker_credentials import Purpose, sign_worker
from dwsps_channels.peering.outbound.config import PeerConfig
from dwsps_channels.peering.outbound.forwarder import Forwarder
from dwsps_channels.peering.outbound.link import Link
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStatus

logger = logging.getLogger("dwsps_channels.worker")

# How long the peers may take, at the end, to acknowledge what was sent, and receivers of signals for the last ones.
FLUSH_GRACE = 6.0
EVENTS_GRACE = 1.0


class DatabaseStore:
    """The forwarder's ``Store``, in the project's database."""

    def __init__(self) -> None:
        # The peers that were left out, and why, as the log knows: the rows are read every second.
        self._reported: dict[int, str] = {}

    async def peers(self) -> Sequence[PeerConfig]:
        """The rows that are enabled and forwarded to."""
        return await database_sync_to_async(store.load_peers)(self._reported)

    async def cursor(self, peer: int) -> Mapping[str, int]:
        """As the peer's status has it."""
        return await database_sync_to_async(store.load_cursor)(peer)

    async def write(self, statuses: Mapping[int, LinkStatus]) -> None:
        """To the peers' statuses."""
        await database_sync_to_async(store.write_statuses)(statuses)


class Worker:
    """Forwards while it holds the lease; stands by while another worker does."""

    def __init__(self, url: str) -> None:
        """Forward what the server at the websocket ``url`` publishes."""
        self._url = url
        self._timings = conf.TIMINGS
        self._holder = uuid4().hex
        self._stopping = asyncio.Event()
        # What the log was told last, and the end of another worker's lease as it was seen last.
        self._told = ""
        self._lease_end: datetime | None = None

    def stop(self) -> None:
        """Send what can be sent, and end."""
        self._stopping.set()

    async def run(self) -> None:
        """Forward, or stand by, until ``stop``. Without a peer to forward to, the database is only read."""
        while not self._stopping.is_set():
            try:
                wanted = await database_sync_to_async(store.has_peers)()
                if wanted and await database_sync_to_async(lease.acquire)(
                    self._holder, self._timings.LEASE_TIMEOUT
                ):
                    self._told, self._lease_end = "", None
                    await self._forward()
                    continue
                lease_end = await database_sync_to_async(lease.expiry)() if wanted else None
            except Exception:
                # The database was away, as a rule. Another worker may be luckier: the lease was given back.
                logger.exception("forwarding is not possible for now; trying again")
            else:
                self._tell_why_not(lease_end)
            await self._pause(self._timings.LEASE_RENEW_INTERVAL)

    def _tell_why_not(self, lease_end: datetime | None) -> None:
        """Log once why this worker does not forward. ``None``: there are no peers; else another worker has the lease."""
        words = "no peer to forward to; waiting for one"
        if lease_end is not None:
            words = "another worker is forwarding; standing by"
            before, self._lease_end = self._lease_end, lease_end
            if before is None or lease_end <= before:
                # Nobody is known to renew it: it may be left from a worker that was killed, and ends by itself.
                return
        if words != self._told:
            self._told = words
            logger.info(words)

    async def _forward(self) -> None:
        events = LinkEvents()
        own_id = await database_sync_to_async(server_id)()
        forwarder = Forwarder(
            DatabaseStore(),
            server_id=own_id,
            url=self._url,
            sign=partial(sign_worker, own_id, Purpose.FORWARD),
            outbox_messages=conf.OUTBOX_MESSAGES,
            outbox_bytes=conf.OUTBOX_BYTES,
            timings=self._timings,
            on_change=events.put,
        )
        logger.info("forwarding what is published at %s", self._url)
        running = asyncio.create_task(forwarder.run())
        lost = asyncio.create_task(self._renew())
        stopping = asyncio.create_task(self._stopping.wait())
        sending = asyncio.create_task(events.send())
        try:
            await asyncio.wait((running, lost, stopping), return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                if not lost.result():
                    logger.warning("the lease was lost to another worker; standing by")
            elif stopping.done():
                # No more is taken in: else there would be no end to it.
                await _end(running)
                if left := await forwarder.flush(FLUSH_GRACE):
                    logger.info("stopping with %d messages that peers have not acknowledged", left)
        finally:
            is_ours = not lost.done() or lost.result()
            await _end(running, stopping)
            await forwarder.close(write=is_ours)
            await _end(lost)
            if is_ours:
                await self._release()
            await events.finish(EVENTS_GRACE)
            await _end(sending)
        if not running.cancelled():
            await running  # raises what ended it

    async def _release(self) -> None:
        try:
            await database_sync_to_async(lease.release)(self._holder)
        except Exception:
            logger.exception("the lease could not be given back; it ends by itself")

    async def _renew(self) -> bool:
        """Keep the lease; returns false when it is lost, true when it is needed no more, as there are no peers."""
        while True:
            await asyncio.sleep(self._timings.LEASE_RENEW_INTERVAL)
            try:
                if not await database_sync_to_async(lease.acquire)(
                    self._holder, self._timings.LEASE_TIMEOUT
                ):
                    return False
                if not await database_sync_to_async(store.has_peers)():
                    return True
            except Exception:
                # Where the database is away nobody else can take it either.
                logger.exception("the lease could not be renewed; forwarding all the same")

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


class LinkEvents:
    """Sends a signal whenever a link is made or lost, to receivers that the links do not wait for."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[Signal, str]] = asyncio.Queue()
        self._connected: set[str] = set()

    def put(self, link: Link) -> None:
        """Take note of what ``link`` is at now."""
        name = link.config.name
        if link.state is LinkState.CONNECTED and name not in self._connected:
            self._connected.add(name)
            self._queue.put_nowait((signals.peer_connected, name))
        elif link.state is not LinkState.CONNECTED and name in self._connected:
            self._connected.remove(name)
            self._queue.put_nowait((signals.peer_disconnected, name))

    async def send(self) -> None:
        """Send the signals, one after the other, until cancelled."""
        # A thread of their own: a slow receiver is not to hold up what the worker asks the database.
        async with ThreadSensitiveContext():
            while True:
                signal, name = await self._queue.get()
                try:
                    await aclose_old_connections()
                    await signal.asend_robust(sender=Link, peer=name)
                except Exception:
                    logger.exception("a signal of peer '%s' could not be sent", name)
                finally:
                    self._queue.task_done()

    async def finish(self, timeout: float) -> None:
        """Wait until all is sent, but not for ever."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._queue.join(), timeout)


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
