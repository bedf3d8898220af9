"""Django's signals of links: a peer has connected, or disconnected."""

import asyncio
import logging
from contextlib import suppress
from typing import Final

from asgiref.sync import ThreadSensitiveContext
from channels.db import aclose_old_connections
from django.dispatch import Signal

from dwsps_channels import signals
from dwsps_channels.peering.outbound.link import Link
from dwsps_channels.peering.outbound.link_status import LinkState

logger = logging.getLogger("dwsps_channels.worker")

QUEUE_LENGTH: Final = 1000
"""The number of signals that may wait for slow receivers."""


class LinkSignals:
    """Sends a signal for each link that connects or disconnects, without delaying the links.

    If receivers are too slow, signals are dropped. Even then each peer's signals alternate, and once the receivers have
    caught up, the last signal of each peer is true.
    """

    def __init__(self, length: int = QUEUE_LENGTH) -> None:
        self._queue: asyncio.Queue[tuple[Signal, str]] = asyncio.Queue(length)
        self._connected: set[str] = set()
        # The names of the peers whose last queued signal was peer_connected.
        self._announced: set[str] = set()
        # The names of the peers whose last signal was dropped.
        self._behind: set[str] = set()
        self.dropped = 0
        """The number of signals that were dropped."""
        self._dropped_in_a_row = 0

    def put(self, link: Link) -> None:
        """Queue a signal if ``link`` has connected or disconnected since the last call."""
        name = link.config.name
        was_connected = name in self._connected
        if link.state is LinkState.CONNECTED:
            self._connected.add(name)
        else:
            self._connected.discard(name)
        if was_connected != (name in self._connected):
            self._announce(name)

    def _announce(self, name: str) -> None:
        is_connected = name in self._connected
        if is_connected == (name in self._announced):
            self._behind.discard(name)
            return
        signal = signals.peer_connected if is_connected else signals.peer_disconnected
        try:
            self._queue.put_nowait((signal, name))
        except asyncio.QueueFull:
            self._drop(name)
            return
        self._announced ^= {name}
        self._behind.discard(name)

    def _drop(self, name: str) -> None:
        if not self._dropped_in_a_row:
            logger.warning(
                "signal receivers are too slow: signals of peers are dropped while %d wait",
                self._queue.qsize(),
            )
        self._behind.add(name)
        self.dropped += 1
        self._dropped_in_a_row += 1

    async def send(self) -> None:
        """Send the signals, one after the other, until cancelled."""
        # With a thread of its own, so that slow receivers do not delay the worker's queries.
        async with ThreadSensitiveContext():
            while True:
                signal, name = await self._queue.get()
                try:
                    await aclose_old_connections()
                    await signal.asend_robust(sender=Link, peer=name)
                except Exception:
                    logger.exception("a signal of peer '%s' could not be sent", name)
                finally:
                    if self._queue.empty():
                        self._catch_up()
                    self._queue.task_done()

    def _catch_up(self) -> None:
        """Queue the signals that make up for dropped ones, now that the queue is empty."""
        if self._dropped_in_a_row:
            logger.warning(
                "signal receivers have caught up: %d signals of peers were dropped",
                self._dropped_in_a_row,
            )
            self._dropped_in_a_row = 0
        for name in sorted(self._behind):
            if self._queue.full():
                break  # the rest follows when these are sent
            self._announce(name)

    async def finish(self, timeout: float) -> None:
        """Wait until all signals are sent, for at most ``timeout`` seconds. What is left then is logged."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._queue.join(), timeout)
            return
        logger.warning(
            "signal receivers were too slow: %d signals of peers were not sent before the end",
            self._queue.qsize() + 1,
        )
