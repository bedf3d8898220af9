"""``manage.py topicrules``."""

import json
from collections.abc import Iterator
from io import StringIO

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.test import override_settings

from dwsps_channels.models import TopicRule
from tests.rules.rows import rule

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def topic_rules() -> Iterator[None]:
    with override_settings(DWSPS={"POLICY": "dwsps_channels.policies.TopicRules"}):
        yield


def run(*arguments: str) -> tuple[str, str]:
    """Return what it writes, on stdout and stderr."""
    out, err = StringIO(), StringIO()
    call_command("topicrules", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_the_list_is_a_tree() -> None:
    editors = Group.objects.create(name="editors")
    rule("news", "everybody", editors)
    rule("news-desk", "staff")
    rule("news.uk", "authenticated", "dwsps_channels.view_peer")
    rule("", "nobody")
    out, err = run("list")
    assert out.splitlines() == [
        "TOPIC        SUBSCRIBE        PUBLISH",
        "every topic  nobody           nobody",
        "news         everybody        group 'editors'",
        "news.uk      logged-in users  permission 'dwsps_channels.view_peer'",
        "news-desk    staff            nobody",
    ]
    assert err == ""


def test_the_list_as_json() -> None:
    rule("news", "everybody", Group.objects.create(name="editors"))
    rule("desk", "dwsps_channels.view_peer", "staff")
    assert json.loads(run("list", "--json")[0]) == [
        {
            "topic": "desk",
            "subscribe": {"who": "permission", "permission": "dwsps_channels.view_peer"},
            "publish": {"who": "staff"},
        },
        {
            "topic": "news",
            "subscribe": {"who": "everybody"},
            "publish": {"who": "group", "group": "editors"},
        },
    ]


def test_without_rules_it_says_what_that_means() -> None:
    assert run("list") == (
        "",
        "no topic rules yet, so they allow nobody anything. Add one in the admin, under 'Topic rules'\n",
    )
    assert json.loads(run("list", "--json")[0]) == []
    assert "no topic rules yet" in run("test", "-", "news")[1]


def test_a_decision_is_explained() -> None:
    User.objects.create_user("ada")
    rule("news", "everybody")
    rule("news.staff", "staff")
    assert run("test", "ada", "news")[0].splitlines() == [
        "ada may subscribe to news: the rule for news allows everybody",
        "  without news.staff: the rule for news.staff allows only staff",
        "ada may not publish to news: the rule for news allows nobody",
    ]
    assert run("test", "-", "news.staff")[0].splitlines()[0] == (
        "a visitor who is not logged in may not subscribe to news.staff: the rule for news.staff allows only staff"
    )


def test_the_status_tells_if_a_user_may() -> None:
    rule("news", "everybody")
    run("test", "-", "news", "--may", "subscribe")
    with pytest.raises(CommandError, match="may not publish to news") as refused:
        run("test", "-", "news", "--may", "publish")
    assert refused.value.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(("ada", "news"), "there is no user 'ada'"), (("-", "a..b"), "has an empty level")],
)
def test_what_cannot_be_asked_ends_with_status_2(arguments: tuple[str, str], problem: str) -> None:
    with pytest.raises(CommandError, match=problem) as refused:
        run("test", *arguments)
    assert refused.value.returncode == 2


@pytest.mark.parametrize("arguments", [("list",), ("test", "-", "news")])
def test_it_warns_if_the_policy_does_not_read_rules(arguments: tuple[str, ...]) -> None:
    rule("news", "everybody")
    with override_settings(DWSPS={}):
        assert "DWSPS['POLICY'] is AllowAll" in run(*arguments)[1]


def test_rules_that_nobody_has_checked_are_named(caplog: pytest.LogCaptureFixture) -> None:
    TopicRule.objects.create(topic="news.{user}")
    run("list")
    assert (
        "the topic rule for news.{user} has no effect, its topic: '{user}' is not known"
        in caplog.text
    )
