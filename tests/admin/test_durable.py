"""Durable messages in the admin."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse

from dwsps_channels.models import DurableMessage
from dwsps_channels.peering import lease
from tests.durable.rows import leave, topics

LIST = "admin:dwsps_channels_durablemessage_changelist"
NO_WORKER = "No worker is running, so nobody publishes these messages."

pytestmark = pytest.mark.django_db


def page(browser: Client, url: str) -> str:
    response = browser.get(url)
    assert response.status_code == 200
    return response.content.decode()


def test_an_empty_list_says_what_it_is_for(admin_client: Client) -> None:
    text = page(admin_client, reverse(LIST))
    assert "No durable message waits." in text
    assert NO_WORKER not in text


def test_the_list_has_what_waits_and_why(admin_client: Client) -> None:
    leave("orders.7", attempts=3, last_error="the message is too large")
    text = page(admin_client, reverse(LIST))
    assert "orders.7" in text
    assert "the message is too large" in text
    assert NO_WORKER in text
    lease.acquire("somebody", 60)
    assert NO_WORKER not in page(admin_client, reverse(LIST))


def test_a_message_is_shown_and_cannot_be_changed(admin_client: Client) -> None:
    row = leave("orders.7", {"state": "paid <now>"})
    url = reverse("admin:dwsps_channels_durablemessage_change", args=[row.pk])
    assert "paid &lt;now&gt;" in page(admin_client, url)
    assert admin_client.post(url, {"topic": "other"}).status_code == 403
    assert admin_client.get(reverse("admin:dwsps_channels_durablemessage_add")).status_code == 403
    assert topics() == ["orders.7"]


def test_a_message_with_half_of_a_surrogate_pair_is_shown(admin_client: Client) -> None:
    row = leave("orders.7")
    DurableMessage.objects.update(message=rb'"half \ud83d"')
    url = reverse("admin:dwsps_channels_durablemessage_change", args=[row.pk])
    assert r"half \ud83d" in page(admin_client, url)


def test_one_is_published_now(admin_client: Client) -> None:
    row = leave("a", due_at=Now() + timedelta(hours=1))
    response = admin_client.post(
        reverse(LIST), {"action": "publish_now", "_selected_action": [str(row.pk)]}
    )
    assert [str(each) for each in get_messages(response.wsgi_request)] == [
        "the worker publishes them within seconds: 1"
    ]
    assert DurableMessage.objects.due().get() == row


def test_publishing_now_needs_a_worker(admin_client: Client) -> None:
    row = leave("a")
    data = {"action": "publish_now", "_selected_action": [str(row.pk)]}
    response = admin_client.post(reverse(LIST), data)
    assert [str(each) for each in get_messages(response.wsgi_request)] == [
        "no worker is running; once one is, it publishes them: 1"
    ]


def test_users_who_may_only_view_cannot_publish_or_delete(client: Client) -> None:
    user = User.objects.create_user("eve", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_durablemessage"))
    client.force_login(user)
    row = leave("a", due_at=Now() + timedelta(hours=1))
    for action in ("publish_now", "delete_selected"):
        client.post(
            reverse(LIST), {"action": action, "_selected_action": [str(row.pk)], "post": "yes"}
        )
    assert topics() == ["a"]
    assert not DurableMessage.objects.due().exists()
