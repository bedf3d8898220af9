"""Publishing from a process that does not serve, in any thread or greenlet."""

import asyncio
import atexit
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Final

from django.core.signals import setting_changed
from django.dispatch import receiver

from dwsps_channels.broker.backends import BrokerBackend
from dwsps_channels.client.address import Address
from dwsps_channels.conf import conf
from dwsps_channels.exceptions import NotServing
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.publishing.blocking import BlockingPublisher
from dwsps_channels.publishing.breaker import CircuitBreaker
from dwsps_channels.publishing.broker import BrokerPublisher
from dwsps_channels.publishing.losses import losses
from dwsps_channels.publishing.publisher import OutgoingMessage, PublishResult
from dwsps_channels.threads.database import close_old_connections

# How long nobody tries after a failure.
FAILURE_PAUSE: Final = 1.0

# Connections that are kept for the next callers: as many as a server has threads, most of the time.
MAX_IDLE: Final = 16


class RemotePublisher:
    """Publishes over as many connections as there are callers at a time, and keeps them. See ``Publisher``.

    No caller waits for another: each has a connection of its own, and ``DWSPS["PUBLISH_TIMEOUT"]`` seconds. While the
    server cannot be reached, all but one fail at once.
    """

    def __init__(self, make: Callable[[], BlockingPublisher], url: str | None) -> None:
        """``url`` is the server's websocket, if that is the way; for messages."""
        self._make = make
        self._url = url
        self._was_there = False
        self._problem = ""
        self._breaker = CircuitBreaker(FAILURE_PAUSE)
        # The one that was used last is taken first. A deque's ends need no lock.
        self._idle: deque[BlockingPublisher] = deque()

    async def apublish(self, message: OutgoingMessage) -> PublishResult:
        """See ``Publisher.apublish``."""
        return await asyncio.to_thread(self._publish_in_thread, message)

    def _publish_in_thread(self, message: OutgoingMessage) -> PublishResult:
        # Nothing else closes the database connections of the event loop's threads.
        try:
            return self.publish(message)
        finally:
            close_old_connections()

    def publish(self, message: OutgoingMessage) -> PublishResult:
        """See ``Publisher.publish``."""
        timeout = conf.PUBLISH_TIMEOUT
        deadline = monotonic() + timeout
        if not self._breaker.allows(timeout):
            raise self._failed(self._problem)
        try:
            publisher = self._idle.pop()
        except IndexError:
            publisher = self._make()
        try:
            result = publisher.publish(message, deadline)
        except Unavailable as error:
            self._succeed(publisher)
            losses.add(error.problem)
            raise
        except OSError as error:
            publisher.close()
            timed_out = isinstance(error, TimeoutError)
            self._problem = f"no answer within {timeout:g} s" if timed_out else str(error)
            self._breaker.fail()
            self.close()  # the others lead to the same
            raise self._failed(self._problem) from error
        except BaseException:
            publisher.close()  # nobody knows what it was doing
            raise
        self._succeed(publisher)
        if result.lost:
            losses.add(result.lost)
        else:
            losses.report_if_due()
        return PublishResult(reached=0, offset=result.offset)

    def _succeed(self, publisher: BlockingPublisher) -> None:
        self._was_there = True
        self._breaker.succeed()
        if len(self._idle) < MAX_IDLE:
            self._idle.append(publisher)
        else:
            publisher.close()

    def _failed(self, problem: str) -> NotServing | Unavailable:
        losses.add(problem)
        if self._url is not None and not self._was_there:
            return NotServing(self._url, problem)
        return Unavailable(f"the server cannot be reached: {problem}")

    def close(self) -> None:
        """End the connections that nobody is using."""
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return


# By process, broker and URL. What a fork brought along stays, unused: to close it would be to end connections that the
# parent goes on using.
_publishers: dict[tuple[int, type[BrokerBackend], str, str], RemotePublisher] = {}


def remote_publisher(backend: BrokerBackend, url: str) -> RemotePublisher:
    """Return this process's publisher: through the broker if it joins processes, else the websocket at ``url``."""
    # As text: options with a list, say, could be no key.
    key = (os.getpid(), type(backend), repr(backend.options), url)
    publisher = _publishers.get(key)
    if publisher is None:
        publisher = _publishers.setdefault(key, _make_publisher(backend, url))
    return publisher


def _make_publisher(backend: BrokerBackend, url: str) -> RemotePublisher:
    if backend.joins_processes:
        return RemotePublisher(partial(_through_broker, backend), None)
    # Not at the top: models are needed only there.
    from dwsps_channels.publishing.websocket import WebSocketPublisher

    return RemotePublisher(partial(WebSocketPublisher, url), Address.parse(url).shown)


def _through_broker(backend: BrokerBackend) -> BrokerPublisher:
    sender = backend.make_sender()
    assert sender is not None, "a broker that joins processes has a sender"
    return BrokerPublisher(sender)


@atexit.register
def _close_all() -> None:
    for key in list(_publishers):
        if key[0] == os.getpid():
            _publishers.pop(key).close()


@receiver(setting_changed)
def _begin_again(setting: str, **kwargs: Any) -> None:
    # Sent in tests only.
    if setting in ("CHANNEL_LAYERS", "DWSPS"):
        _close_all()
