"""Tells the project's signal receivers what sessions do, without making sessions wait."""

import asyncio
import json
import logging
from collections import deque
from contextlib import nullcontext
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.dispatch import Signal

from dwsps_channels import signals
from dwsps_channels.capturing import is_under_test
from dwsps_channels.core.identity import Identity
from dwsps_channels.core.observer import Observer
from dwsps_channels.core.session import Session
from dwsps_channels.protocol.text import printable
from dwsps_channels.threads.database import close_connections, close_old_connections

logger = logging.getLogger("dwsps_channels.signals")

# What may wait for slow receivers; beyond it events are dropped, and counted.
QUEUE_LENGTH = 10_000


class SignalObserver(Observer):
    """Queues an event for each signal that has receivers, and sends them one after the other.

    The receivers share a thread of their own, so that a slow one does not hold up Django's own thread either.
    """

    def __init__(self) -> None:
        self._queue: deque[tuple[Signal, Identity, dict[str, Any]]] = deque()
        self._sender: asyncio.Task[None] | None = None
        self.dropped = 0
        """How many events receivers were too slow for."""

    def connected(self, identity: Identity) -> None:
        if signals.connected.receivers:
            self._put(signals.connected, identity)

    def disconnected(self, identity: Identity) -> None:
        if signals.disconnected.receivers:
            self._put(signals.disconnected, identity)

    def subscribed(self, identity: Identity, topic: str) -> None:
        if signals.subscribed.receivers:
            self._put(signals.subscribed, identity, topic=topic)

    def unsubscribed(self, identity: Identity, topic: str) -> None:
        if signals.unsubscribed.receivers:
            self._put(signals.unsubscribed, identity, topic=topic)

    def published(self, identity: Identity, topic: str, message: bytes) -> None:
        if signals.published.receivers:
            self._put(signals.published, identity, topic=topic, message=bytes(message))

    async def finish(self, timeout: float) -> None:
        """Let the receivers have what is queued, for at most ``timeout`` seconds. What is left then is logged."""
        if self._sender is not None:
            _, late = await asyncio.wait([self._sender], timeout=timeout)
            for task in late:
                task.cancel()
                logger.warning(
                    "signal receivers were too slow: %d events were not sent before the end",
                    len(self._queue) + 1,
                )

    def _put(self, signal: Signal, identity: Identity, **told: Any) -> None:
        if len(self._queue) >= QUEUE_LENGTH:
            if not self.dropped:
                logger.warning(
                    "signal receivers are too slow: events are dropped beyond %d waiting",
                    QUEUE_LENGTH,
                )
            self.dropped += 1
            return
        self._queue.append((signal, identity, told))
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send_queued())

    async def _send_queued(self) -> None:
        try:
            # Again for events that came while the connections were being closed.
            while self._queue:
                await self._send_all()
        finally:
            self._sender = None

    async def _send_all(self) -> None:
        # In a test they share the test's thread, and see its transaction.
        async with nullcontext() if is_under_test() else ThreadSensitiveContext():
            while self._queue:
                signal, identity, told = self._queue.popleft()
                if "message" in told:
                    try:
                        told["message"] = json.loads(told["message"])
                    except (ValueError, RecursionError) as error:
                        # JSON it is, but Python reads no integer of 5000 digits.
                        logger.warning(
                            "a message that client %s published to '%s' cannot be passed to signal receivers: %s",
                            identity.client,
                            printable(told["topic"]),
                            printable(str(error)),
                        )
                        continue
                await sync_to_async(close_old_connections)()
                # Robust: Django logs what a receiver raises, with its traceback.
                await signal.asend_robust(
                    sender=Session, client=identity.client, user=identity.user, **told
                )
            # The thread ends here, and what it opened with it, whatever CONN_MAX_AGE says.
            await sync_to_async(close_connections)()
