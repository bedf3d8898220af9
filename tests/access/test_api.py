"""``disconnect`` and ``permission_changed``: the notices that they send, and when."""

import logging
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.db.transaction import TransactionManagementError

from dwsps_channels.access import (
    adisconnect,
    apermission_changed,
    disconnect,
    permission_changed,
)
from dwsps_channels.core.identity import hash_session_key
from dwsps_channels.core.notice import Disconnect, Notice, Permission, Rules, Verify, encode
from dwsps_channels.protocol.errors import InvalidTopic, Unavailable
from tests.access.recording import RecordingNotifier

SESSION = "k3x0v6x1l0w5r3c4x7m8p9q2z1y6t5u4"

DISCONNECTS: list[tuple[dict[str, Any], Notice]] = [
    ({"user": User(pk=7)}, Disconnect(user="7")),
    ({"user": 7}, Disconnect(user="7")),
    ({"user": "7"}, Disconnect(user="7")),
    ({"session_key": SESSION}, Disconnect(session=hash_session_key(SESSION))),
]
CHANGES: list[tuple[dict[str, Any], Notice]] = [
    ({}, Permission()),
    ({"user": User(pk=7)}, Permission(user="7")),
    ({"user": 7, "topic": "orders.42"}, Permission(user="7", topic="orders.42")),
    ({"topic": "orders.42"}, Permission(topic="orders.42")),
]


@pytest.mark.parametrize(("arguments", "notice"), DISCONNECTS)
async def test_a_disconnect_says_whom_it_is_about(
    notifier: RecordingNotifier, arguments: dict[str, Any], notice: Notice
) -> None:
    disconnect(**arguments)
    await adisconnect(**arguments)
    assert notifier.take() == [notice, notice]


@pytest.mark.parametrize(("arguments", "notice"), CHANGES)
async def test_a_change_says_what_it_is_about(
    notifier: RecordingNotifier, arguments: dict[str, Any], notice: Notice
) -> None:
    permission_changed(**arguments)
    await apermission_changed(**arguments)
    assert notifier.take() == [notice, notice]


def test_the_key_of_a_session_is_not_sent(notifier: RecordingNotifier) -> None:
    disconnect(session_key=SESSION)
    [notice] = notifier.take()
    assert SESSION.encode() not in encode(notice)


@pytest.mark.parametrize("arguments", [{}, {"user": 7, "session_key": SESSION}])
def test_a_disconnect_is_about_one_thing(
    notifier: RecordingNotifier, arguments: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match="either 'user' or 'session_key'"):
        disconnect(**arguments)


@pytest.mark.parametrize("user", [AnonymousUser(), User(), ""])
def test_nobody_cannot_be_disconnected(notifier: RecordingNotifier, user: object) -> None:
    with pytest.raises(ValueError, match="nobody"):
        disconnect(user=user)
    with pytest.raises(ValueError, match="nobody"):
        permission_changed(user=user)
    assert notifier.take() == []


@pytest.mark.parametrize("topic", ["", "a..b", "$dwsps.notice"])
def test_a_topic_is_checked(notifier: RecordingNotifier, topic: str) -> None:
    with pytest.raises(InvalidTopic):
        permission_changed(topic=topic)


@pytest.mark.django_db(transaction=True)
class TestInATransaction:
    def test_it_is_sent_on_commit(self, notifier: RecordingNotifier) -> None:
        with transaction.atomic():
            disconnect(user=7)
            assert notifier.notices == []
        assert notifier.take() == [Disconnect(user="7")]

    def test_it_is_not_sent_after_a_rollback(self, notifier: RecordingNotifier) -> None:
        with transaction.atomic():
            disconnect(user=7)
            transaction.set_rollback(True)
        assert notifier.take() == []

    def test_one_that_was_made_by_hand_cannot_be_waited_for(
        self, notifier: RecordingNotifier
    ) -> None:
        transaction.set_autocommit(False)
        try:
            with pytest.raises(TransactionManagementError, match="made by hand"):
                disconnect(user=7)
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)

    def test_the_log_tells_if_nobody_heard_of_it_on_commit(
        self, notifier: RecordingNotifier, caplog: pytest.LogCaptureFixture
    ) -> None:
        notifier.problem = Unavailable("redis is away")
        with caplog.at_level(logging.WARNING), transaction.atomic():
            disconnect(user=7)
        assert "redis is away (1)" in caplog.text


def test_without_a_transaction_it_raises(notifier: RecordingNotifier) -> None:
    notifier.problem = Unavailable("redis is away")
    with pytest.raises(Unavailable, match="redis is away"):
        disconnect(user=7)
    with pytest.raises(Unavailable, match="redis is away"):
        permission_changed()


def test_the_kinds_differ() -> None:
    assert len({encode(each) for each in (Verify(), Permission(), Rules())}) == 3
