"""Durable messages: stored in the caller's transaction, published on commit, and removed once the log has them.

What is left, since the process died or the server was away, the worker publishes: see ``dwsps_channels.durable``.
"""

import asyncio
from datetime import timedelta
from functools import partial
from secrets import randbits
from time import time_ns
from typing import Final, NamedTuple, Self
from uuid import UUID, uuid5

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import IntegrityError, router, transaction
from django.db.models.functions import Now
from msgspec import Raw

from dwsps_channels.conf import conf
from dwsps_channels.exceptions import NotServing
from dwsps_channels.models import DurableMessage
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.publishing.losses import delays
from dwsps_channels.publishing.publisher import OutgoingMessage, Publisher, PublishResult
from dwsps_channels.publishing.transactions import database_in_transaction, has_commit_hooks

# Seconds that the process itself has for a message beyond PUBLISH_TIMEOUT, before the worker takes it.
MARGIN: Final = 1.0

# The namespace of ids that are made of keys: the same key is the same row, and the same message to the log.
_KEYS: Final = UUID("6b1c5a0e-7b0f-4c53-9a35-0a3c1f7e9d52")


def publish_durable(
    publisher: Publisher, outgoing: OutgoingMessage, using: str | None
) -> PublishResult | None:
    """Store ``outgoing`` and publish it: on commit, or at once without a transaction.

    Returns:
        The result; ``None`` if the message is published later: on commit, or by the worker.

    Raises:
        ImproperlyConfigured: the database has no table for it.
        DatabaseError: it cannot be stored.
    """
    stored = _store(publisher, outgoing, using)
    return None if stored is None else _send(publisher, stored)


async def apublish_durable(
    publisher: Publisher, outgoing: OutgoingMessage, using: str | None
) -> PublishResult | None:
    """Do as ``publish_durable``, with the queries in the thread of Django's asynchronous ones."""
    stored = await sync_to_async(_store)(publisher, outgoing, using)
    if stored is None:
        return None
    try:
        result = await publisher.apublish(stored.message)
    except (NotServing, Unavailable) as error:
        delays.add(error.problem)
        return None
    delays.report_if_due()
    await sync_to_async(stored.remove)()
    return result


class StoredMessage(NamedTuple):
    """A message that has a row in ``database``."""

    message: OutgoingMessage
    database: str

    @classmethod
    def of(cls, row: DurableMessage, database: str, key: str = "") -> Self:
        """Make one of its row. ``key`` is that which it was published with, if that is known."""
        payload = Raw(bytes(row.message))
        return cls(OutgoingMessage(row.topic, payload, row.timestamp, key, row.id.hex), database)

    def remove(self) -> None:
        """Delete the row, as the log has the message."""
        rows = DurableMessage.objects.using(self.database)
        try:
            rows.filter(pk=UUID(self.message.durable_id)).delete()
        except DatabaseError as error:
            # The worker publishes it again, with its key, which the log knows.
            delays.add(f"published, but not removed from the database: {error}")


def _store(
    publisher: Publisher, outgoing: OutgoingMessage, using: str | None
) -> StoredMessage | None:
    """Insert the row, and see to it that the commit publishes. Without a transaction return what is to be published now."""
    in_transaction = database_in_transaction(using)
    database = in_transaction or using or router.db_for_write(DurableMessage)
    if not router.allow_migrate_model(database, DurableMessage):
        raise ImproperlyConfigured(
            f"the database '{database}' has no table for durable messages: DATABASE_ROUTERS keep it away from there. Let "
            "them migrate dwsps_channels there too, or give the database that has it as 'using'"
        )
    stored = StoredMessage.of(_insert(outgoing, database), database, outgoing.key)
    if in_transaction is None:
        return stored
    # After a commit by hand nobody calls: the worker sees the row.
    if has_commit_hooks(in_transaction):

        def publish_on_commit() -> None:
            _send(publisher, stored)

        # Robust: what else waits for the commit is to run, whatever is wrong here.
        transaction.on_commit(publish_on_commit, using=database, robust=True)
    return None


def _insert(outgoing: OutgoingMessage, database: str) -> DurableMessage:
    """Insert the message's row. If one with the same key waits already, return that."""
    rows = DurableMessage.objects.using(database)
    fields = {
        "topic": outgoing.topic,
        "message": bytes(outgoing.payload),
        "timestamp": outgoing.timestamp,
        "due_at": Now() + timedelta(seconds=conf.PUBLISH_TIMEOUT + MARGIN),
    }
    if not outgoing.key:
        return rows.create(id=_new_id(), **fields)
    find_or_insert = partial(rows.get_or_create, id=uuid5(_KEYS, outgoing.key), defaults=fields)
    try:
        return find_or_insert()[0]
    except IntegrityError:
        # The other row has just gone, between the insert that met it and the look at it.
        return find_or_insert()[0]


def _new_id() -> UUID:
    """Make an id above those that this thread has made before.

    By the database's clock messages may be equally old: SQLite's has milliseconds.
    """
    return UUID(int=time_ns() << 64 | randbits(64))


def _send(publisher: Publisher, stored: StoredMessage) -> PublishResult | None:
    """Publish a stored message, and remove its row. If that fails it is the worker's: return ``None``."""
    try:
        result = publisher.publish(stored.message)
    except (NotServing, Unavailable) as error:
        delays.add(error.problem)
        return None
    delays.report_if_due()
    # On an event loop the broker may not have answered yet: the worker removes the row.
    if result.offset is not None or asyncio._get_running_loop() is None:
        stored.remove()
    return result
