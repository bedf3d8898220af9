"""Publish from any Django code: of the process that serves, or of any other of the project's."""

import asyncio
import json
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import TransactionManagementError
from msgspec import Raw

from dwsps_channels.broker.backends import configured_backend
from dwsps_channels.capturing import Capture, capture
from dwsps_channels.conf import conf
from dwsps_channels.protocol.depth import is_deeper
from dwsps_channels.protocol.errors import (
    InvalidTopic,
    MessageTooDeep,
    MessageTooLarge,
    Unavailable,
)
from dwsps_channels.protocol.timestamps import now
from dwsps_channels.protocol.topics import check
from dwsps_channels.publishing.losses import losses
from dwsps_channels.publishing.remote import NotServing, RemotePublisher, remote_publisher
from dwsps_channels.server import runtime
from dwsps_channels.threads.database import close_old_connections

__all__ = ["InvalidPayload", "NotServing", "apublish", "publish"]

Server = runtime.Runtime | RemotePublisher | Capture


class InvalidPayload(ValueError):
    """``message`` is nothing that JSON can say; ``field`` names the argument."""

    field = "message"


def publish(
    topic: str, message: Any, *, on_commit: bool = True, using: str | None = None
) -> int | None:
    """Publish ``message`` to ``topic``, past the policy, from synchronous code.

    Inside a transaction it is published on commit, and never if the transaction is rolled back; with
    ``on_commit=False`` it is published at once. ``using`` names the database of the transaction; without it, that is
    the default database if it is in a transaction, else the one that is.

    A message that cannot reach a server (``NotServing``, ``Unavailable``) is lost, and counted in the log. On commit
    nothing is raised for it.

    Args:
        message: what ``DjangoJSONEncoder`` can make JSON of; at most ``DWSPS["MAX_MESSAGE_BYTES"]`` then, and
            nested at most ``DWSPS["MAX_MESSAGE_DEPTH"]`` levels deep.

    Returns:
        The number of this process's sessions that it reached; ``None`` where it waits for the commit. In a thread
        the server's other processes have it, too, when this returns; in the event loop it is on its way to them
        (await ``apublish`` there). In a process that serves nothing it reaches none of its own, and the server has
        it when this returns.

    Raises:
        InvalidTopic, InvalidPayload, MessageTooLarge, MessageTooDeep: at once, also inside a transaction. All are
            ``ValueError``.
        TransactionManagementError: in a transaction made by hand (``set_autocommit(False)``), whose commit nobody
            announces: commit, then publish with ``on_commit=False``.
        NotServing: in a process that serves nothing, and knows no way to one that does.
        Unavailable: in a thread, where the server's other processes could not be reached within
            ``DWSPS["PUBLISH_TIMEOUT"]`` seconds; this one's subscribers have the message.
    """
    outgoing = _outgoing(topic, message)
    server = _server()
    database = _database_in_transaction(using) if on_commit else None
    if database is not None:
        # A function, not a partial: Django names it in its log.
        def publish_on_commit() -> None:
            # The log has it. There is nobody to raise it to: the transaction stands.
            with suppress(NotServing, Unavailable):
                _publish(server, outgoing)

        # Robust: what else waits for the commit is to run, whatever is wrong here.
        transaction.on_commit(publish_on_commit, using=database, robust=True)
        return None
    return _publish(server, outgoing)


def _database_in_transaction(using: str | None) -> str | None:
    """The alias of the database whose commit is to be waited for; ``None``: no transaction is open."""
    in_transaction = [
        connection.alias
        for connection in (
            connections.all(initialized_only=True) if using is None else [connections[using]]
        )
        if connection.in_atomic_block or _is_manual(connection)
    ]
    if not in_transaction:
        return None
    alias = DEFAULT_DB_ALIAS if DEFAULT_DB_ALIAS in in_transaction else in_transaction[0]
    if not connections[alias].in_atomic_block:
        raise TransactionManagementError(
            f"the database '{alias}' is in a transaction made by hand, whose commit publish() cannot wait for: "
            "commit, then publish with on_commit=False"
        )
    return alias


def _is_manual(connection: BaseDatabaseWrapper) -> bool:
    # Not get_autocommit(), which would connect: a task that touches no database needs none to publish.
    return connection.connection is not None and not connection.autocommit


async def apublish(topic: str, message: Any) -> int:
    """Publish ``message`` to ``topic``, past the policy, from asynchronous code, at once.

    Returns and raises as ``publish`` does in a thread. (Transactions belong to synchronous code: there is none to
    wait for.)
    """
    outgoing = _outgoing(topic, message)
    server = _server()
    if isinstance(server, Capture):
        return server.publish(*outgoing)
    if isinstance(server, RemotePublisher):
        return await asyncio.to_thread(_publish_in_thread, server, outgoing)
    publishing: Awaitable[int]
    if asyncio.get_running_loop() is server.loop:
        publishing = _publish_in_loop(server, outgoing)
    else:
        publishing = asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(_publish_in_loop(server, outgoing), server.loop)
        )
    with _losses_counted():
        async with asyncio.timeout(conf.PUBLISH_TIMEOUT):
            return await publishing


Outgoing = tuple[str, Raw, str]
"""Topic, JSON and timestamp."""


def _outgoing(topic: str, message: Any) -> Outgoing:
    if not isinstance(topic, str):
        raise InvalidTopic(repr(topic), "is not a string")
    check(topic)
    try:
        text = json.dumps(
            message,
            cls=DjangoJSONEncoder,
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        )
        # A lone surrogate has no UTF-8, but an escape that JSON has as well.
        data = text.encode("utf-8", "backslashreplace")
    except RecursionError:
        raise MessageTooDeep(conf.MAX_MESSAGE_DEPTH) from None
    except (TypeError, ValueError) as error:
        raise InvalidPayload(f"'message' cannot be made JSON: {error}") from error
    if len(data) > conf.MAX_MESSAGE_BYTES:
        raise MessageTooLarge(len(data), conf.MAX_MESSAGE_BYTES)
    if is_deeper(data, conf.MAX_MESSAGE_DEPTH):
        raise MessageTooDeep(conf.MAX_MESSAGE_DEPTH)
    return topic, Raw(data), now()


def _server() -> Server:
    serving = runtime.current()
    return (
        capture(serving=serving is not None)
        or serving
        or remote_publisher(configured_backend(), conf.SERVER_URL)
    )


def _publish(server: Server, outgoing: Outgoing) -> int:
    if not isinstance(server, runtime.Runtime):
        return server.publish(*outgoing)
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is server.loop:
        # The loop's own thread cannot wait for the other processes.
        reached, pending = _hand_over(server, outgoing)
        if pending is not None:
            task = asyncio.ensure_future(_count_losses(pending))
            _under_way.add(task)
            task.add_done_callback(_under_way.discard)
        return reached
    publishing = asyncio.run_coroutine_threadsafe(_publish_in_loop(server, outgoing), server.loop)
    with _losses_counted():
        try:
            return publishing.result(conf.PUBLISH_TIMEOUT)
        finally:
            publishing.cancel()  # no effect once it is done


def _publish_in_thread(server: RemotePublisher, outgoing: Outgoing) -> int:
    """Publish in a thread of the event loop's, which closes no connections to the database by itself."""
    try:
        return server.publish(*outgoing)
    finally:
        close_old_connections()


async def _publish_in_loop(server: runtime.Runtime, outgoing: Outgoing) -> int:
    # The first request starts it; those that come at the same time may get here before it has started.
    await server.started()
    reached, pending = _hand_over(server, outgoing)
    if pending is not None:
        await pending
    return reached


def _hand_over(server: runtime.Runtime, outgoing: Outgoing) -> tuple[int, Awaitable[None] | None]:
    """Publish on the server's loop: how many sessions it reaches, and what tells that the other processes have it."""
    # Counted before: a subscriber that comes because of the message was not reached by it.
    reached = server.hub.reach(outgoing[0])
    return reached, server.hub.publish(*outgoing)


async def _count_losses(pending: Awaitable[None]) -> None:
    with suppress(Unavailable), _losses_counted():
        await pending


_under_way: set[asyncio.Future[None]] = set()


@contextmanager
def _losses_counted() -> Iterator[None]:
    """Count what does not reach the server's other processes, and raise ``Unavailable`` if it took too long."""
    try:
        yield
    except TimeoutError:
        error = Unavailable(
            f"the server's processes did not get it within {conf.PUBLISH_TIMEOUT:g} s"
        )
        losses.add(error.problem)
        raise error from None
    except Unavailable as error:
        losses.add(error.problem)
        raise
    losses.report_if_due()
