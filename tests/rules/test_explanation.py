"""Explanations of decisions, in words."""

import pytest
from django.contrib.auth.models import Group, User
from django.test import override_settings

from dwsps_channels.protocol.errors import InvalidTopic
from dwsps_channels.rules.explanation import UnknownUser, explain, find_user, policy_problem
from tests.rules.rows import rule

pytestmark = pytest.mark.django_db


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada")


def test_the_rule_that_decides_is_named_with_what_it_allows(ada: User) -> None:
    editors = Group.objects.create(name="editors")
    rule("", "everybody")
    rule("news", "authenticated", editors)
    rule("news.staff", "staff")
    rule("news.drafts", "dwsps_channels.view_peer")
    found = explain(ada, "news")
    assert found.subscribing.is_allowed
    assert found.subscribing.reason == "the rule for news allows only logged-in users"
    assert found.subscribing.topic_of_rule == "news"
    assert found.subscribing.exceptions == (
        "news.drafts: the rule for news.drafts allows only permission 'dwsps_channels.view_peer'",
        "news.staff: the rule for news.staff allows only staff",
    )
    assert not found.publishing.is_allowed
    assert found.publishing.reason == "the rule for news allows only group 'editors'"
    ada.groups.add(editors)
    assert explain(ada, "news").publishing.is_allowed
    visitor = explain(None, "sport")
    assert visitor.subscribing.reason == "the rule for every topic allows everybody"
    assert not explain(None, "news").subscribing.is_allowed


def test_without_a_rule_it_says_so(ada: User) -> None:
    rule("news", "everybody")
    found = explain(ada, "sport").subscribing
    assert not found.is_allowed
    assert found.topic_of_rule is None
    assert found.reason == "no rule is for this topic, and there is no rule for every topic"


def test_somebody_elses_topic_is_explained_by_the_rule_for_ones_own(ada: User) -> None:
    rule("", "everybody")
    rule("users.{pk}", "authenticated")
    own, other = explain(ada, f"users.{ada.pk}"), explain(ada, f"users.{ada.pk}0")
    assert own.subscribing.is_allowed
    assert own.subscribing.reason == "the rule for users.{pk} allows only logged-in users"
    assert not other.subscribing.is_allowed
    assert other.subscribing.topic_of_rule == "users.{pk}"
    assert other.subscribing.reason == (
        "the rule for users.{pk} is for each user's own topic only, and there is no rule for users that allows more"
    )


def test_a_user_who_is_not_active_may_do_what_a_visitor_may(ada: User) -> None:
    rule("news", "authenticated")
    ada.is_active = False
    ada.save()
    assert not explain(ada, "news").subscribing.is_allowed


def test_names_may_be_numbers(ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(User, "USERNAME_FIELD", "id")
    assert find_user(str(ada.pk)) == ada
    with pytest.raises(UnknownUser, match="there is no user 'bob'"):
        find_user("bob")


def test_what_cannot_be_explained(ada: User) -> None:
    assert find_user("ada") == ada
    with pytest.raises(UnknownUser, match="there is no user 'bob'"):
        find_user("bob")
    with pytest.raises(InvalidTopic):
        explain(None, "a..b")


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ("dwsps_channels.policies.TopicRules", ""),
        ("dwsps_channels.policies.ReadOnly", "DWSPS['POLICY'] is ReadOnly"),
    ],
)
def test_rules_that_the_policy_does_not_read_have_no_effect(policy: str, problem: str) -> None:
    with override_settings(DWSPS={"POLICY": policy}):
        assert policy_problem().startswith(problem)
        assert bool(policy_problem()) is bool(problem)
