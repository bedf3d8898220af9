"""``disconnect`` and ``permission_changed``, from any Django code."""

from typing import Any

from dwsps_channels.core.identity import hash_session_key
from dwsps_channels.core.notice import Disconnect, Notice, Permission
from dwsps_channels.protocol.topics import check
from dwsps_channels.publishing.notifying import anotify, notify


def disconnect(*, user: Any = None, session_key: str | None = None) -> None:
    """Close the connections of a user, or of a Django session, with 4001, from synchronous code.

    Inside a transaction it is done on commit, and never if the transaction is rolled back. A client whose user may still
    log in can come back: this ends connections, not accounts.

    Args:
        user: the user, or its primary key.
        session_key: the key of a session. It leaves this process only as a hash.

    Raises:
        TypeError: neither is given, or both are.
        ValueError: the user is nobody: it has no primary key.
        TransactionManagementError, NotServing, Unavailable: as ``publish`` does.
    """
    notify(_disconnect(user, session_key))


async def adisconnect(*, user: Any = None, session_key: str | None = None) -> None:
    """Do as ``disconnect`` from asynchronous code, at once."""
    await anotify(_disconnect(user, session_key))


def permission_changed(user: Any = None, topic: str | None = None) -> None:
    """Have the policy asked again about subscriptions that stand, from synchronous code.

    Until it has answered, they get nothing; those that it forbids end. With ``user`` the user is looked up again as well,
    and who is nobody any more is disconnected. Grants that were made before no longer count for what is asked again.

    Inside a transaction it is done on commit, and never if the transaction is rolled back.

    Args:
        user: the user whose subscriptions are asked about, or its primary key. Without it: everybody's.
        topic: subscriptions to this topic, above and below it are asked about. Without it: all. Without ``user`` and
            ``topic``, every user is looked up again, and topic rules are read again first.

    Raises:
        InvalidTopic: the topic breaks the grammar. It is a ``ValueError``.
        ValueError: the user is nobody: it has no primary key.
        TransactionManagementError, NotServing, Unavailable: as ``publish`` does.
    """
    notify(_permission(user, topic))


async def apermission_changed(user: Any = None, topic: str | None = None) -> None:
    """Do as ``permission_changed`` from asynchronous code, at once."""
    await anotify(_permission(user, topic))


def _disconnect(user: Any, session_key: str | None) -> Disconnect:
    if (user is None) is (session_key is None):
        raise TypeError("give either 'user' or 'session_key'")
    if session_key is not None:
        return Disconnect(session=hash_session_key(session_key))
    return Disconnect(user=_key_of(user))


def _permission(user: Any, topic: str | None) -> Notice:
    if topic is not None:
        check(topic)
    return Permission(user="" if user is None else _key_of(user), topic=topic or "")


def _key_of(user: Any) -> str:
    key = getattr(user, "pk", user)
    if key is None or key == "":
        raise ValueError("'user' is nobody: it has no primary key")
    return str(key)
