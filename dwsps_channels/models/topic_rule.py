"""Rules for topics, which ``dwsps_channels.policies.TopicRules`` reads."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import models, router
from django.dispatch import Signal

from dwsps_channels.core.rule import (
    InvalidRuleTopic,
    Requirement,
    Rule,
    Who,
    check_rule_topic,
    parent_of_own,
)

T = TypeVar("T")

WHO: Sequence[tuple[str, str]] = (
    (Who.EVERYBODY.value, "everybody"),
    (Who.AUTHENTICATED.value, "logged-in users"),
    (Who.STAFF.value, "staff"),
    (Who.PERMISSION.value, "users with a permission"),
    (Who.GROUP.value, "members of a group"),
    (Who.NOBODY.value, "nobody"),
)

ACTIONS = ("subscribe", "publish")

NEEDS_AUTH = "topic rules need 'django.contrib.auth' in INSTALLED_APPS: they name its groups"


def validate_rule_topic(topic: str) -> None:
    try:
        check_rule_topic(topic)
    except InvalidRuleTopic as error:
        raise ValidationError(str(error), code="topic") from error


def _who(verbose_name: str) -> Any:
    return models.CharField(verbose_name, max_length=16, choices=WHO, default=Who.NOBODY.value)


def _permission() -> Any:
    return models.CharField(
        "permission",
        max_length=255,
        blank=True,
        help_text="For users with a permission: app_label.codename, such as orders.view_order.",
    )


def _group() -> Any:
    return models.ForeignKey(
        "auth.Group",
        verbose_name="group",
        null=True,
        blank=True,
        # Without its rule, a topic would be decided by the one above.
        on_delete=models.PROTECT,
        # The groups may be in another database.
        db_constraint=False,
        related_name="+",
        help_text="For members of a group.",
    )


rules_changed = Signal()
"""Sent after rules were changed or deleted in a way of which ``post_save`` does not tell. Has ``using``, the database."""


class TopicRuleQuerySet(models.QuerySet["TopicRule"]):
    """Rules. What is done to many at once is announced once."""

    def get_by_natural_key(self, topic: str) -> "TopicRule":
        """Return the rule for ``topic``: fixtures name rules and groups, as primary keys differ between databases."""
        return self.get(topic=topic)

    def delete(self) -> tuple[int, dict[str, int]]:
        return self._announced(super().delete())

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def update(self, **values: Any) -> int:
        return self._announced(super().update(**values))

    update.alters_data = True  # type: ignore[attr-defined]

    def bulk_create(self, *args: Any, **kwargs: Any) -> list["TopicRule"]:
        return self._announced(super().bulk_create(*args, **kwargs))

    bulk_create.alters_data = True  # type: ignore[attr-defined]

    def _announced(self, result: T) -> T:
        rules_changed.send(self.model, using=self.db)
        return result


class TopicRule(models.Model):
    """One rule: who may subscribe and publish to a topic and below it.

    Of the rules for a topic and for those above it, the one with the most levels decides.
    """

    topic = models.CharField(
        max_length=255,
        unique=True,
        blank=True,
        validators=[validate_rule_topic],
        help_text="For this topic and all below it, unless a deeper rule decides. Empty: for every topic. A level {pk} or "
        "{username} is the user's own: the rule for users.{pk} is, for user 7, the rule for users.7.",
    )
    subscribe = _who("who may subscribe")
    subscribe_permission = _permission()
    subscribe_group = _group()
    publish = _who("who may publish")
    publish_permission = _permission()
    publish_group = _group()

    objects = TopicRuleQuerySet.as_manager()

    class Meta:
        # A project without users has no groups of them, so it has no rules: neither the model nor its table.
        abstract = not apps.is_installed("django.contrib.auth")
        ordering = ("topic",)

    def __str__(self) -> str:
        return self.topic or "every topic"

    def natural_key(self) -> tuple[str]:
        return (self.topic,)

    def delete(
        self, using: str | None = None, keep_parents: bool = False
    ) -> tuple[int, dict[str, int]]:
        using = using or router.db_for_write(type(self), instance=self)
        deleted = super().delete(using, keep_parents)
        rules_changed.send(type(self), using=using)
        return deleted

    def clean(self) -> None:
        problems: dict[str, ValidationError] = {}
        for action in ACTIONS:
            problems |= self._clean_who(action)
        if "{" in self.topic and (problem := self._problem_with_names()):
            problems["topic"] = ValidationError(problem, code="names")
        if problems:
            raise ValidationError(problems)

    def _clean_who(self, action: str) -> dict[str, ValidationError]:
        """Empty the fields that do not belong to the choice; return what is wrong with the other one."""
        who = getattr(self, action)
        if who != Who.PERMISSION:
            setattr(self, f"{action}_permission", "")
        elif problem := _problem_with_permission(getattr(self, f"{action}_permission")):
            return {f"{action}_permission": ValidationError(problem, code="permission")}
        if who != Who.GROUP:
            setattr(self, f"{action}_group", None)
        elif getattr(self, f"{action}_group_id") is None:
            return {f"{action}_group": ValidationError("name the group", code="group")}
        return {}

    def _problem_with_names(self) -> str:
        parent = parent_of_own(self.topic)
        other = "{username}" if "{pk}" in self.topic else "{pk}"
        beside = TopicRule.objects.filter(topic__startswith=f"{parent}.{other}").exclude(pk=self.pk)
        if not any(f"{rule.topic}.".startswith(f"{parent}.{other}.") for rule in beside):
            return ""
        return f"there is a rule for {parent}.{other}, and a user's name may be another one's key: use only one of them"

    def as_rule(self) -> Rule:
        """Return the rule as decisions use it."""
        return Rule(self.topic, self._requirement("subscribe"), self._requirement("publish"))

    def _requirement(self, action: str) -> Requirement:
        try:
            who = Who(getattr(self, action))
        except ValueError:
            who = Who.NOBODY  # not written by this app
        match who:
            case Who.PERMISSION:
                return Requirement(who, permission=getattr(self, f"{action}_permission"))
            case Who.GROUP:
                group = getattr(self, f"{action}_group")
                name = "" if group is None else group.name
                return Requirement(who, group=getattr(self, f"{action}_group_id"), group_name=name)
        return Requirement(who)


def in_tree_order(rules: Iterable[TopicRule]) -> list[TopicRule]:
    """Sort rules as a tree: a topic, all that is below it, then the next one."""
    return sorted(rules, key=lambda rule: rule.topic.split(".") if rule.topic else [])


def _problem_with_permission(permission: str) -> str:
    if not permission:
        return "name the permission: app_label.codename"
    label, _, codename = permission.partition(".")
    if not label or not codename:
        return "write it as app_label.codename, such as orders.view_order"
    known = apps.get_model("auth", "Permission")._default_manager
    if not known.filter(content_type__app_label=label, codename=codename).exists():
        return f"there is no permission '{permission}'"
    return ""
