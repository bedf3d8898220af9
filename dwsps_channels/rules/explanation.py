"""Explanations: which topic rule decides about a user and a topic, and what it says."""

from contextlib import suppress
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from msgspec import Struct

from dwsps_channels.conf import conf
from dwsps_channels.core.reader import ANONYMOUS
from dwsps_channels.core.rule import Requirement, Rule, Who
from dwsps_channels.core.rule_set import ReaderRules, Verdict
from dwsps_channels.protocol.topics import check
from dwsps_channels.rules.loading import load_reader, load_rules
from dwsps_channels.rules.policy import TopicRules


class Explanation(Struct, frozen=True):
    """An answer, and why it is that."""

    action: str
    """``subscribe`` or ``publish``."""
    verdict: Verdict
    reason: str
    """A sentence without a full stop."""
    exceptions: tuple[str, ...] = ()
    """The sub-topics that a subscription does not get, and why: one sentence each."""

    @property
    def is_allowed(self) -> bool:
        return self.verdict.allowed

    @property
    def topic_of_rule(self) -> str | None:
        """The topic of the rule that decides, as it is in the database; ``None``: no rule decides."""
        rule = self.verdict.rule
        return None if rule is None else rule.name


class Explained(Struct, frozen=True):
    """The answers for a user and a topic."""

    subscribing: Explanation
    publishing: Explanation


class UnknownUser(Exception):
    """There is no user of this name."""


def find_user(name: str) -> Any:
    """Return the user of this name.

    Raises:
        UnknownUser: no user has this name.
    """
    model = get_user_model()
    user = None
    # Names may be numbers or UUIDs; and PostgreSQL has no text with a null character.
    with suppress(ValueError, ValidationError):
        user = model._default_manager.filter(**{model.USERNAME_FIELD: name}).first()
    if user is None:
        raise UnknownUser(f"there is no user '{name}'")
    return user


def explain(user: Any, topic: str) -> Explained:
    """Decide for a user and a topic by the rules that are in the database now, and say why.

    Args:
        user: a Django user; ``None``: a visitor who is not logged in.
        topic: any text.

    Raises:
        InvalidTopic: it is no topic.
    """
    check(topic)
    rules = load_rules()
    is_inactive = user is not None and not getattr(user, "is_active", True)
    # Django logs in no user who is not active.
    reader = ANONYMOUS if user is None or is_inactive else load_reader(user, rules)
    mine = ReaderRules(rules, reader)
    subscribing, publishing = mine.may_subscribe(topic), mine.may_publish(topic)
    return Explained(
        Explanation(
            "subscribe",
            subscribing,
            _reason(subscribing, "subscribe"),
            tuple(f"{rule.topic}: {_of_rule(rule, rule.subscribe)}" for rule in subscribing.denied),
        ),
        Explanation("publish", publishing, _reason(publishing, "publish")),
    )


def policy_problem() -> str:
    """Say so if the rules have no effect; empty: they have."""
    policy = conf.policy_class
    if issubclass(policy, TopicRules):
        return ""
    return (
        f"DWSPS['POLICY'] is {policy.__name__}, which does not read topic rules: they have no effect until it is "
        "'dwsps_channels.policies.TopicRules'"
    )


def _reason(verdict: Verdict, action: str) -> str:
    rule = verdict.rule
    if rule is None:
        return "no rule is for this topic, and there is no rule for every topic"
    return _of_rule(rule, rule.subscribe if action == "subscribe" else rule.publish)


def _of_rule(rule: Rule, requirement: Requirement) -> str:
    if rule.is_implied:
        return (
            f"the rule for {rule.name} is for each user's own topic only, and there is no rule for {rule.topic} that "
            "allows more"
        )
    only = "" if requirement.who in (Who.EVERYBODY, Who.NOBODY) else "only "
    return f"the rule for {rule.name or 'every topic'} allows {only}{requirement}"
