"""Topic rules in the admin."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client, override_settings
from django.urls import reverse

from dwsps_channels.exceptions import NotServing
from dwsps_channels.models import TopicRule
from dwsps_channels.publishing import notifying
from dwsps_channels.publishing.notifying import lost_notices
from tests.access.recording import RecordingNotifier
from tests.rules.rows import rule

LIST = "admin:dwsps_channels_topicrule_changelist"
ADD = "admin:dwsps_channels_topicrule_add"
EXPLAIN = "admin:dwsps_channels_topicrule_explain"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def topic_rules(settings: Any) -> None:
    settings.DWSPS = {"POLICY": "dwsps_channels.policies.TopicRules"}


def page(browser: Client, url: str, query: dict[str, str] | None = None) -> str:
    response = browser.get(url, query)
    assert response.status_code == 200
    return response.content.decode()


def form(**values: Any) -> dict[str, Any]:
    empty = {f"{action}{part}": "" for action in ("subscribe", "publish") for part in PARTS}
    return empty | {"topic": "news", "subscribe": "nobody", "publish": "nobody"} | values


PARTS = ("", "_permission", "_group")


class TestList:
    def test_an_empty_one_says_what_that_means_and_offers_a_first_rule(
        self, admin_client: Client
    ) -> None:
        text = page(admin_client, reverse(LIST))
        assert "No topic rules yet, so nobody may subscribe or publish." in text
        assert 'href="/admin/dwsps_channels/topicrule/add/?topic=&amp;subscribe=everybody' in text
        first = page(
            admin_client,
            reverse(ADD),
            {"topic": "", "subscribe": "everybody", "publish": "nobody"},
        )
        assert '<option value="everybody" selected>' in first

    def test_a_reader_is_offered_nothing_to_add(self, client: Client) -> None:
        client.force_login(viewer())
        text = page(client, reverse(LIST))
        assert "No topic rules yet" in text
        assert "/add/" not in text

    def test_each_topic_is_followed_by_its_sub_topics(self, admin_client: Client) -> None:
        for topic in ("a-b", "a.b.c", "", "a.b", "a"):
            rule(topic)
        rows = admin_client.get(reverse(LIST)).context["cl"].result_list
        assert [row.topic for row in rows] == ["", "a", "a.b", "a.b.c", "a-b"]
        rows = admin_client.get(reverse(LIST), {"o": "-1"}).context["cl"].result_list
        assert [row.topic for row in rows] == ["a.b.c", "a.b", "a-b", "a", ""]

    def test_it_shows_who_may(self, admin_client: Client) -> None:
        rule("news", "authenticated", Group.objects.create(name="<editors>"))
        text = page(admin_client, reverse(LIST))
        assert "logged-in users" in text
        assert "group &#x27;&lt;editors&gt;&#x27;" in text

    def test_a_rule_whose_group_was_deleted_by_sql_is_shown(self, admin_client: Client) -> None:
        editors = Group.objects.create(name="editors")
        rule("news", editors)
        Group.objects.filter(pk=editors.pk)._raw_delete("default")
        assert "a group that does not exist" in page(admin_client, reverse(LIST))

    @pytest.mark.parametrize(
        ("dwsps", "warning"),
        [({}, "is AllowAll"), ({"POLICY": "no.such.policy"}, "a class that can be imported")],
    )
    def test_it_warns_if_the_policy_does_not_read_rules(
        self, admin_client: Client, dwsps: Any, warning: str
    ) -> None:
        assert "dwsps-warning" not in page(admin_client, reverse(LIST))
        with override_settings(DWSPS=dwsps):
            for name in (LIST, EXPLAIN):
                text = page(admin_client, reverse(name))
                assert "dwsps-warning" in text
                assert warning in text


class TestForm:
    def test_a_rule_is_added(self, admin_client: Client) -> None:
        editors = Group.objects.create(name="editors")
        values = form(
            subscribe="permission",
            subscribe_permission="auth.view_user",
            publish="group",
            publish_group=editors.pk,
        )
        assert admin_client.post(reverse(ADD), values).status_code == 302
        row = TopicRule.objects.get()
        assert (row.topic, row.subscribe_permission, row.publish_group) == (
            "news",
            "auth.view_user",
            editors,
        )

    def test_what_the_choice_does_not_use_is_emptied(self, admin_client: Client) -> None:
        editors = Group.objects.create(name="editors")
        values = form(
            subscribe="staff", subscribe_permission="auth.view_user", subscribe_group=editors.pk
        )
        assert admin_client.post(reverse(ADD), values).status_code == 302
        row = TopicRule.objects.get()
        assert (row.subscribe_permission, row.subscribe_group) == ("", None)

    @pytest.mark.parametrize(
        ("values", "problem"),
        [
            ({"topic": "a..b"}, "has an empty level"),
            ({"topic": "$dwsps.a"}, "is reserved"),
            ({"topic": "users.{id}"}, "&#x27;{id}&#x27; is not known"),
            ({"topic": "users.x{pk}"}, "is not known"),
            ({"topic": "{username}"}, "begins with {username}"),
            ({"topic": "a.{pk}.{username}"}, "has more than one placeholder"),
            ({"topic": "sport"}, "already exists"),
            ({"topic": "users.{pk}"}, "there is a rule for users.{username}"),
            ({"subscribe": "permission"}, "name the permission"),
            ({"subscribe": "permission", "subscribe_permission": "view"}, "write it as"),
            ({"subscribe": "permission", "subscribe_permission": "a.b"}, "there is no permission"),
            ({"publish": "group"}, "name the group"),
            ({"publish": "group", "publish_group": "99"}, "not one of the available choices"),
            ({"publish": "anybody"}, "not one of the available choices"),
        ],
    )
    def test_a_mistake_is_named(
        self, admin_client: Client, values: dict[str, str], problem: str
    ) -> None:
        rule("sport")
        rule("users.{username}.inbox")
        response = admin_client.post(reverse(ADD), form(**values))
        assert response.status_code == 200
        assert problem in response.content.decode()
        assert TopicRule.objects.count() == 2

    @pytest.mark.parametrize("topic", ["users.{username}", "users.{username}.a", "other.{pk}"])
    def test_a_placeholder_beside_the_same_one_is_fine(
        self, admin_client: Client, topic: str
    ) -> None:
        rule("users.{username}.inbox")
        assert admin_client.post(reverse(ADD), form(topic=topic)).status_code == 302

    def test_a_permission_that_is_gone_is_shown_and_must_be_replaced(
        self, admin_client: Client
    ) -> None:
        row = rule("news", "auth.view_user")
        Permission.objects.filter(codename="view_user").delete()
        url = reverse("admin:dwsps_channels_topicrule_change", args=[row.pk])
        assert "auth.view_user (does not exist)" in page(admin_client, url)
        values = form(subscribe="permission", subscribe_permission="auth.view_user")
        assert "there is no permission" in admin_client.post(url, values).content.decode()

    def test_a_group_that_a_rule_names_cannot_be_deleted(self, admin_client: Client) -> None:
        editors = Group.objects.create(name="editors")
        rule("news", editors)
        url = reverse("admin:auth_group_delete", args=[editors.pk])
        assert "Topic rule" in page(admin_client, url)
        admin_client.post(url, {"post": "yes"})
        assert Group.objects.filter(pk=editors.pk).exists()


class TestExplaining:
    def test_a_decision_is_explained_with_a_link_to_the_rule(self, admin_client: Client) -> None:
        User.objects.create_user("ada")
        row = rule("news", "everybody")
        rule("news.staff", "staff")
        text = page(admin_client, reverse(EXPLAIN), {"user": "ada", "topic": "news"})
        assert "ada may subscribe to news</strong>" in text
        assert "news.staff: the rule for news.staff allows only staff" in text
        assert "ada may not publish to news</strong>" in text
        assert f'href="/admin/dwsps_channels/topicrule/{row.pk}/change/"' in text

    def test_a_visitor_and_no_rule(self, admin_client: Client) -> None:
        text = page(admin_client, reverse(EXPLAIN), {"user": "", "topic": "news"})
        assert "A visitor may not subscribe to news</strong>" in text
        assert "no rule is for this topic" in text

    def test_a_user_who_is_not_active(self, admin_client: Client) -> None:
        User.objects.create_user("ada", is_active=False)
        text = page(admin_client, reverse(EXPLAIN), {"user": "ada", "topic": "news"})
        assert "ada is not active" in text

    @pytest.mark.parametrize(
        ("query", "problem"),
        [
            ({"user": "<b>", "topic": "news"}, "there is no user &#x27;&lt;b&gt;&#x27;"),
            ({"user": "", "topic": "a..b"}, "has an empty level"),
            ({"user": "", "topic": ""}, "This field is required"),
        ],
    )
    def test_a_mistake_is_named(
        self, admin_client: Client, query: dict[str, str], problem: str
    ) -> None:
        assert problem in page(admin_client, reverse(EXPLAIN), query)

    def test_the_list_leads_there(self, admin_client: Client) -> None:
        assert f'href="{reverse(EXPLAIN)}"' in page(admin_client, reverse(LIST))

    def test_it_takes_the_right_to_view_rules(self, client: Client) -> None:
        assert client.get(reverse(EXPLAIN)).status_code == 302
        client.force_login(User.objects.create_user("bob", is_staff=True))
        assert client.get(reverse(EXPLAIN)).status_code == 403
        client.force_login(viewer())
        assert client.get(reverse(EXPLAIN)).status_code == 200


def viewer() -> User:
    user = User.objects.create_user("reader", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_topicrule"))
    return user


def test_a_reader_sees_a_rule(client: Client) -> None:
    row = rule("news", "auth.view_user", "staff")
    client.force_login(viewer())
    text = page(client, reverse("admin:dwsps_channels_topicrule_change", args=[row.pk]))
    assert "auth.view_user" in text


@pytest.mark.django_db(transaction=True)
class TestServerThatCannotBeTold:
    @pytest.fixture(autouse=True)
    def unreachable(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        notifier = RecordingNotifier()
        notifier.problem = NotServing("ws://127.0.0.1:1", "no server answers")
        monkeypatch.setattr(notifying, "choose_publisher", lambda *args: notifier)
        yield
        lost_notices.forget()

    @pytest.mark.parametrize("change", ["add", "change", "delete", "delete selected"])
    def test_the_operator_is_warned(self, admin_client: Client, change: str) -> None:
        row = rule("desk")
        url = f"{reverse(LIST)}{row.pk}/"
        request: dict[str, tuple[str, dict[str, Any]]] = {
            "add": (reverse(ADD), form()),
            "change": (f"{url}change/", form()),
            "delete": (f"{url}delete/", {"post": "yes"}),
            "delete selected": (
                reverse(LIST),
                {"action": "delete_selected", "_selected_action": row.pk, "post": "yes"},
            ),
        }
        response = admin_client.post(*request[change], follow=True)
        assert "goes on by the old rules" in response.content.decode()
        assert "goes on by the old rules" not in page(admin_client, reverse(LIST))
