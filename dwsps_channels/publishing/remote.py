"""Publishing from a process that does not serve, in any thread or greenlet."""

import asyncio
from functools import partial

from dwsps_channels.broker.backends import BrokerBackend
from dwsps_channels.client.address import Address
from dwsps_channels.conf import conf
from dwsps_channels.core.notice import Notice
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.publishing.blocking import BlockingPublisher
from dwsps_channels.publishing.broker import BrokerPublisher
from dwsps_channels.publishing.losses import count_loss, losses
from dwsps_channels.publishing.publisher import OutgoingMessage, PublishResult
from dwsps_channels.remote.pool import ConnectionPool, PerServer
from dwsps_channels.threads.database import close_old_connections


class RemotePublisher:
    """Publishes over a pool of connections. See ``Publisher``.

    Each caller has ``DWSPS["PUBLISH_TIMEOUT"]`` seconds. Lost messages are counted.
    """

    def __init__(self, connections: ConnectionPool[BlockingPublisher]) -> None:
        self._connections = connections

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
        result = self._connections.call(
            lambda connection, deadline: connection.publish(message, deadline),
            conf.PUBLISH_TIMEOUT,
            partial(count_loss, message),
        )
        if result.lost:
            # What is in the log can be read later.
            if message.durable_id and result.offset is None:
                raise Unavailable(result.lost)
            count_loss(message, result.lost)
        else:
            losses.report_if_due()
        return PublishResult(reached=0, offset=result.offset)

    def notify(self, notice: Notice, *, again: bool = False) -> None:
        """See ``Notifier.notify``."""
        self._connections.call(
            lambda connection, deadline: connection.notify(notice, deadline), conf.PUBLISH_TIMEOUT
        )

    async def anotify(self, notice: Notice) -> None:
        """See ``Notifier.anotify``."""
        await asyncio.to_thread(self._notify_in_thread, notice)

    def _notify_in_thread(self, notice: Notice) -> None:
        try:
            self.notify(notice)
        finally:
            close_old_connections()

    def close(self) -> None:
        """End the connections that nobody is using."""
        self._connections.close()


def _make_publisher(backend: BrokerBackend, url: str) -> RemotePublisher:
    if backend.joins_processes:
        return RemotePublisher(ConnectionPool(partial(_through_broker, backend), None))
    # Not at the top: models are needed only there.
    from dwsps_channels.publishing.websocket import WebSocketPublisher

    return RemotePublisher(
        ConnectionPool(partial(WebSocketPublisher, url), Address.parse(url).shown)
    )


def _through_broker(backend: BrokerBackend) -> BrokerPublisher:
    sender = backend.make_sender()
    assert sender is not None, "a broker that joins processes has a sender"
    return BrokerPublisher(sender)


_publishers = PerServer(_make_publisher)


def remote_publisher(backend: BrokerBackend, url: str) -> RemotePublisher:
    """Return this process's publisher: through the broker if it joins processes, else the websocket at ``url``."""
    return _publishers.get(backend, url)
