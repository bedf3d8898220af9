"""``publish`` and ``apublish``, from any Django code."""

from contextlib import suppress
from typing import Any, Literal, overload

from django.db import transaction
from django.db.transaction import TransactionManagementError

from dwsps_channels.exceptions import NotServing
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.publishing.choice import choose_publisher
from dwsps_channels.publishing.encoding import encode
from dwsps_channels.publishing.publisher import PublishResult
from dwsps_channels.publishing.transactions import database_in_transaction, has_commit_hooks


def publish(
    topic: str,
    message: Any,
    *,
    on_commit: bool = True,
    using: str | None = None,
    key: str | None = None,
    durable: bool = False,
) -> PublishResult | None:
    """Publish ``message`` to ``topic`` from synchronous code. The policy is not asked.

    Inside a transaction the message is published on commit, and never if the transaction is rolled back. With
    ``on_commit=False`` it is published at once.

    A message that cannot reach a server (``NotServing``, ``Unavailable``) is lost, and counted in the log. On commit
    nothing is raised for it. With ``durable=True`` it is not lost: it is stored in the database, as a part of the
    transaction, until the log has it, and the worker (``manage.py runpubsub``) publishes what is left. That may be some
    seconds late, and out of order.

    Args:
        topic: levels joined by dots, such as ``news.uk``.
        message: any value that ``DjangoJSONEncoder`` can encode. Its JSON has at most ``DWSPS["MAX_MESSAGE_BYTES"]``
            bytes, and at most ``DWSPS["MAX_MESSAGE_DEPTH"]`` levels.
        on_commit: whether to wait for the commit of a transaction. A durable message always does.
        using: the database of the transaction. Without it: the default database if it is in a transaction, otherwise
            the database that is.
        key: 1 to 64 characters that make it safe to publish again. If Django code has published with this key within
            five minutes, nothing is published: the result has ``reached`` 0, and the first message's offset. The keys of
            durable messages are apart from those of others.
        durable: whether to store the message until the log has it.

    Returns:
        A result whose ``reached`` is the number of sessions of this process that the message reaches, and whose ``offset``
        is its place in the log; ``None`` if it waits for the commit, or for the worker. When this returns a result, the
        broker has the message for the server's other processes as well. On the event loop the message may still be on its
        way then, without an offset: await ``apublish`` there.

    Raises:
        InvalidTopic, InvalidPayload, InvalidKey, MessageTooLarge, MessageTooDeep: at once, also inside a transaction. All
            are ``ValueError``.
        ValueError: ``durable=True`` with ``on_commit=False``.
        TransactionManagementError: after ``set_autocommit(False)``, since Django does not know when such a transaction
            ends: commit, then publish with ``on_commit=False``. A durable message is stored then, and the worker publishes
            it after the commit.
        ImproperlyConfigured: a durable message belongs to a database that has no table for it, by the project's routers.
        NotServing: the process serves no websockets, and cannot reach one that does. Not for durable messages.
        Unavailable: in a thread, if the broker did not take the message within ``DWSPS["PUBLISH_TIMEOUT"]`` seconds.
            If the broker refused it, nobody has it. If it did not answer in time, or the connection broke meanwhile,
            the message may still arrive. Not for durable messages.
    """
    outgoing = encode(topic, message, key)
    publisher = choose_publisher()
    if durable:
        if not on_commit:
            raise ValueError(
                "a durable message is published on commit: leave out on_commit=False, or durable=True"
            )
        # Not at the top: models are needed only there.
        from dwsps_channels.publishing.durable import publish_durable

        return publish_durable(publisher, outgoing, using)
    database = database_in_transaction(using) if on_commit else None
    if database is None:
        return publisher.publish(outgoing)
    if not has_commit_hooks(database):
        raise TransactionManagementError(
            f"the database '{database}' is in a transaction made by hand, whose commit publish() cannot wait for: "
            "commit, then publish with on_commit=False; or publish with durable=True"
        )

    # A function, not a partial: Django names it in its log.
    def publish_on_commit() -> None:
        # The log has it. There is nobody to raise it to: the transaction stands.
        with suppress(NotServing, Unavailable):
            publisher.publish(outgoing)

    # Robust: what else waits for the commit is to run, whatever is wrong here.
    transaction.on_commit(publish_on_commit, using=database, robust=True)
    return None


@overload
async def apublish(
    topic: str, message: Any, *, key: str | None = None, durable: Literal[False] = False
) -> PublishResult: ...
@overload
async def apublish(
    topic: str,
    message: Any,
    *,
    key: str | None = None,
    durable: bool,
    using: str | None = None,
) -> PublishResult | None: ...
async def apublish(
    topic: str,
    message: Any,
    *,
    key: str | None = None,
    durable: bool = False,
    using: str | None = None,
) -> PublishResult | None:
    """Publish ``message`` to ``topic`` from asynchronous code, at once. The policy is not asked.

    ``key``, the result and the errors are those of ``publish`` in a thread. It waits for no transaction: those belong to
    synchronous code. A durable message is stored in the thread of Django's asynchronous queries, and then published. Only if
    synchronous code has a transaction open there, and has called this by ``async_to_sync``, is the message a part of it: it
    is published on commit, and the result is ``None``. ``using`` is the database of a durable message.
    """
    outgoing = encode(topic, message, key)
    publisher = choose_publisher()
    if durable:
        from dwsps_channels.publishing.durable import apublish_durable

        return await apublish_durable(publisher, outgoing, using)
    return await publisher.apublish(outgoing)
