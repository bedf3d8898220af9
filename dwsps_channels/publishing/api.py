"""``publish`` and ``apublish``, from any Django code."""

import json
from contextlib import suppress
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import TransactionManagementError
from msgspec import Raw

from dwsps_channels.broker.backends import configured_backend
from dwsps_channels.capturing import capture
from dwsps_channels.conf import conf
from dwsps_channels.exceptions import InvalidKey, InvalidPayload, NotServing
from dwsps_channels.protocol.depth import is_deeper
from dwsps_channels.protocol.errors import (
    InvalidTopic,
    MessageTooDeep,
    MessageTooLarge,
    Unavailable,
)
from dwsps_channels.protocol.messages import MAX_KEY
from dwsps_channels.protocol.surrogates import is_text
from dwsps_channels.protocol.timestamps import now
from dwsps_channels.protocol.topics import check
from dwsps_channels.publishing.capturing import CapturingPublisher
from dwsps_channels.publishing.local import LocalPublisher
from dwsps_channels.publishing.publisher import OutgoingMessage, Publisher, PublishResult
from dwsps_channels.publishing.remote import remote_publisher
from dwsps_channels.server import runtime


def publish(
    topic: str,
    message: Any,
    *,
    on_commit: bool = True,
    using: str | None = None,
    key: str | None = None,
) -> PublishResult | None:
    """Publish ``message`` to ``topic`` from synchronous code. The policy is not asked.

    Inside a transaction the message is published on commit, and never if the transaction is rolled back. With
    ``on_commit=False`` it is published at once.

    A message that cannot reach a server (``NotServing``, ``Unavailable``) is lost, and counted in the log. On commit
    nothing is raised for it.

    Args:
        topic: levels joined by dots, such as ``news.uk``.
        message: any value that ``DjangoJSONEncoder`` can encode. Its JSON has at most ``DWSPS["MAX_MESSAGE_BYTES"]``
            bytes, and at most ``DWSPS["MAX_MESSAGE_DEPTH"]`` levels.
        on_commit: whether to wait for the commit of a transaction.
        using: the database of the transaction. Without it: the default database if it is in a transaction, otherwise
            the database that is.
        key: 1 to 64 characters that make it safe to publish again. If Django code has published with this key within
            five minutes, nothing is published: the result has ``reached`` 0, and the first message's offset.

    Returns:
        A result whose ``reached`` is the number of sessions of this process that the message reaches, and whose ``offset``
        is its place in the log; ``None`` if it waits for the commit. When this returns, the broker has the message for the
        server's other processes as well. On the event loop the message may still be on its way then, without an offset:
        await ``apublish`` there.

    Raises:
        InvalidTopic, InvalidPayload, InvalidKey, MessageTooLarge, MessageTooDeep: at once, also inside a transaction. All
            are ``ValueError``.
        TransactionManagementError: after ``set_autocommit(False)``, since Django does not know when such a transaction
            ends: commit, then publish with ``on_commit=False``.
        NotServing: the process serves no websockets, and cannot reach one that does.
        Unavailable: in a thread, if the broker did not take the message within ``DWSPS["PUBLISH_TIMEOUT"]`` seconds.
            If the broker refused it, nobody has it. If it did not answer in time, or the connection broke meanwhile,
            the message may still arrive.
    """
    outgoing = _outgoing(topic, message, key)
    publisher = _publisher()
    database = _database_in_transaction(using) if on_commit else None
    if database is not None:
        # A function, not a partial: Django names it in its log.
        def publish_on_commit() -> None:
            # The log has it. There is nobody to raise it to: the transaction stands.
            with suppress(NotServing, Unavailable):
                publisher.publish(outgoing)

        # Robust: what else waits for the commit is to run, whatever is wrong here.
        transaction.on_commit(publish_on_commit, using=database, robust=True)
        return None
    return publisher.publish(outgoing)


def _database_in_transaction(using: str | None) -> str | None:
    """Return the alias of the database whose commit is to be waited for; ``None``: no transaction is open."""
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


async def apublish(topic: str, message: Any, *, key: str | None = None) -> PublishResult:
    """Publish ``message`` to ``topic`` from asynchronous code, at once. The policy is not asked.

    ``key``, the result and the errors are those of ``publish`` in a thread. It waits for no transaction: those belong to
    synchronous code.
    """
    return await _publisher().apublish(_outgoing(topic, message, key))


def _publisher() -> Publisher:
    server = runtime.current()
    captured = capture(serving=server is not None)
    if captured is not None:
        return CapturingPublisher(captured)
    if server is not None:
        return LocalPublisher(server)
    return remote_publisher(configured_backend(), conf.SERVER_URL)


def _outgoing(topic: str, message: Any, key: str | None) -> OutgoingMessage:
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
    return OutgoingMessage(topic, Raw(data), now(), _checked(key))


def _checked(key: str | None) -> str:
    if key is None:
        return ""
    # Callers are not all type-checked.
    is_key = isinstance(key, str) and 1 <= len(key) <= MAX_KEY and is_text(key)  # type: ignore[redundant-expr]
    if not is_key:
        raise InvalidKey(f"'key' must be a string of 1 to {MAX_KEY} characters")
    return key
