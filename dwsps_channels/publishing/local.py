"""Publishing in a process that serves."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from time import time

from dwsps_channels.conf import conf
from dwsps_channels.core.broker import Repeated
from dwsps_channels.core.futures import Future, has_failed
from dwsps_channels.core.keys import server_key
from dwsps_channels.core.notice import Dated, Notice
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.publishing.losses import count_loss, losses
from dwsps_channels.publishing.publisher import OutgoingMessage, PublishResult
from dwsps_channels.publishing.remote import RemotePublisher, remote_publisher
from dwsps_channels.server.runtime import Runtime

OnRefusal = Callable[[Notice, Unavailable], object]


class LocalPublisher:
    """Publishes on the event loop that serves, from that loop or from any thread. See ``Publisher``.

    A page that is completed while the server ends may publish after its broker has left. If the broker joins processes,
    the message then goes to the others as from a process that serves nothing.
    """

    def __init__(self, server: Runtime, on_refusal: OnRefusal | None = None) -> None:
        """``on_refusal`` is called for a notice that the broker does not take, if nobody waits to be told."""
        self._server = server
        self._on_refusal = on_refusal

    def publish(self, message: OutgoingMessage) -> PublishResult:
        """See ``Publisher.publish``. On the loop itself it does not wait for the broker."""
        if (others := self._others()) is not None:
            return others.publish(message)
        server = self._server
        if _running_loop() is server.loop:
            reached, answer = self._hand_over(message)
            if isinstance(answer, int):
                return _result(reached, answer)
            task = asyncio.ensure_future(_count_later_loss(message, answer))
            _under_way.add(task)
            task.add_done_callback(_under_way.discard)
            return PublishResult(reached)
        publishing = asyncio.run_coroutine_threadsafe(self._publish(message), server.loop)
        with _losses_counted(message):
            try:
                return publishing.result(conf.PUBLISH_TIMEOUT)
            finally:
                publishing.cancel()  # no effect once it is done

    async def apublish(self, message: OutgoingMessage) -> PublishResult:
        """See ``Publisher.apublish``."""
        if (others := self._others()) is not None:
            return await others.apublish(message)
        server = self._server
        publishing: Awaitable[PublishResult]
        if asyncio.get_running_loop() is server.loop:
            publishing = self._publish(message)
        else:
            publishing = asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(self._publish(message), server.loop)
            )
        with _losses_counted(message):
            async with asyncio.timeout(conf.PUBLISH_TIMEOUT):
                return await publishing

    def notify(self, notice: Notice, *, again: bool = False) -> None:
        """See ``Notifier.notify``. On the loop itself it does not wait for the broker."""
        if (others := self._others()) is not None:
            others.notify(notice, again=again)
            return
        server = self._server
        if _running_loop() is server.loop:
            answer = server.node.notify(notice)
            if not isinstance(answer, int):
                answer.add_done_callback(partial(self._notice_settled, notice))
            return
        notifying = asyncio.run_coroutine_threadsafe(self._notify(notice), server.loop)
        with self._at_least_here(None if again else notice):
            try:
                notifying.result(conf.PUBLISH_TIMEOUT)
            finally:
                notifying.cancel()

    async def anotify(self, notice: Notice) -> None:
        """See ``Notifier.anotify``."""
        if (others := self._others()) is not None:
            await others.anotify(notice)
            return
        server = self._server
        notifying: Awaitable[None]
        if asyncio.get_running_loop() is server.loop:
            notifying = self._notify(notice)
        else:
            notifying = asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(self._notify(notice), server.loop)
            )
        with self._at_least_here(notice):
            async with asyncio.timeout(conf.PUBLISH_TIMEOUT):
                await notifying

    def _others(self) -> RemotePublisher | None:
        """Return the way to the other processes once this one has left them; ``None``: it has not, or there are none."""
        server = self._server
        if not (server.has_left and server.backend.joins_processes):
            return None
        return remote_publisher(server.backend, conf.SERVER_URL)

    async def _notify(self, notice: Notice) -> None:
        await self._server.started()
        answer = self._server.node.notify(notice)
        if not isinstance(answer, int):
            await answer

    @contextmanager
    def _at_least_here(self, notice: Notice | None) -> Iterator[None]:
        """Raise ``Unavailable`` if the broker takes no notice, and let this one count in this process."""
        try:
            yield
        except (TimeoutError, Unavailable) as error:
            if notice is not None:
                self._server.loop.call_soon_threadsafe(self._server.heed, Dated(notice, time()))
            raise _late() if isinstance(error, TimeoutError) else error from None

    def _notice_settled(self, notice: Notice, accepted: Future) -> None:
        if has_failed(accepted):
            self._server.heed(Dated(notice, time()))
            error = None if accepted.cancelled() else accepted.exception()
            if self._on_refusal is not None:
                self._on_refusal(
                    notice, error if isinstance(error, Unavailable) else _unknown(error)
                )

    async def _publish(self, message: OutgoingMessage) -> PublishResult:
        # The first request starts it; those that come at the same time may get here before it has started.
        await self._server.started()
        reached, answer = self._hand_over(message)
        return _result(reached, answer if isinstance(answer, int) else await answer)

    def _hand_over(self, message: OutgoingMessage) -> tuple[int, int | Future]:
        """Publish; return how many sessions it reaches, and the broker's answer: see ``Broker.publish``."""
        node = self._server.node
        # Counted before: a subscriber that comes because of the message was not reached by it.
        reached = node.hub.reach(message.topic)
        return reached, node.publish(
            message.topic, message.payload, message.timestamp, key=server_key(message.broker_key)
        )


def _result(reached: int, offset: int | None) -> PublishResult:
    if isinstance(offset, Repeated):
        return PublishResult(reached=0, offset=int(offset))
    return PublishResult(reached, offset)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _late() -> Unavailable:
    return Unavailable(f"the server's processes did not get it within {conf.PUBLISH_TIMEOUT:g} s")


def _unknown(error: BaseException | None) -> Unavailable:
    return Unavailable(f"nobody knows whether the broker has taken it: {error!r}")


_under_way: set[asyncio.Future[None]] = set()


async def _count_later_loss(message: OutgoingMessage, accepted: Future) -> None:
    with suppress(Unavailable), _losses_counted(message):
        await accepted


@contextmanager
def _losses_counted(message: OutgoingMessage) -> Iterator[None]:
    """Count a message that the broker does not take, and raise ``Unavailable`` if it took too long."""
    try:
        yield
    except TimeoutError:
        error = _late()
        count_loss(message, error.problem)
        raise error from None
    except Unavailable as error:
        count_loss(message, error.problem)
        raise
    losses.report_if_due()
