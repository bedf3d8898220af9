"""Topic rules and rights of users, read from the database."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.db import router
from django.db.models import Model

from dwsps_channels.core.reader import ANONYMOUS, Reader, Rights
from dwsps_channels.core.rule_set import RuleSet
from dwsps_channels.lazy import is_loaded
from dwsps_channels.protocol.text import printable

logger = logging.getLogger("dwsps_channels.access")

MODEL_BACKEND: Final = "django.contrib.auth.backends.ModelBackend"


def load_rules() -> RuleSet:
    """Read all rules. A replica of the database may lag, so it is not asked.

    Raises:
        ImproperlyConfigured: the project has no groups, which rules name.
    """
    # Projects import policies before their models are loaded.
    from dwsps_channels.models.topic_rule import NEEDS_AUTH, TopicRule

    if TopicRule._meta.abstract:
        raise ImproperlyConfigured(NEEDS_AUTH)
    rows = TopicRule._default_manager.using(router.db_for_write(TopicRule))
    rules = RuleSet(
        row.as_rule() for row in rows.select_related("subscribe_group", "publish_group")
    )
    for topic, problem in rules.ignored.items():
        # Code that writes rules does not always call ``full_clean``.
        logger.warning(
            "the topic rule for %s has no effect, its topic: %s", printable(topic), problem
        )
    return rules


def reader_of(user: Any) -> Reader:
    """Return the user as rules see it, without rights: no query is made for a user that is loaded.

    A row of another model than the user's has no topics of its own: its primary key may be a user's as well.

    Args:
        user: a Django user, anonymous or not, or ``None``.
    """
    if not getattr(user, "is_authenticated", False):
        return ANONYMOUS
    if isinstance(user, Model) and not isinstance(user, get_user_model()):
        return Reader(True, "", "")
    pk, name = getattr(user, "pk", None), getattr(user, "get_username", str)()
    return Reader(True, "" if pk is None else str(pk), str(name))


def load_reader(user: Any, rules: RuleSet) -> Reader:
    """Return the user as rules see it, with the rights that ``rules`` ask for.

    A user with a row is read again: it may have changed since the connection was opened. One without a row, as some
    tokens stand for, is taken as it is. A user who was deleted is nobody.
    """
    if not getattr(user, "is_authenticated", False):
        return ANONYMOUS
    is_stored = _is_stored(user)
    current = _rows(user).filter(pk=user.pk).first() if is_stored else user
    if current is None:
        return ANONYMOUS
    permissions = _permissions(current, rules)
    groups = _groups(current, rules) if is_stored else frozenset()
    return _reader(current, permissions, groups)


def is_read_with_others(user: Any) -> bool:
    """Return whether ``load_readers`` takes this user: only Django's own backend knows its permissions."""
    if (
        not is_loaded(user)
        or not _is_stored(user)
        or list(settings.AUTHENTICATION_BACKENDS) != [MODEL_BACKEND]
    ):
        return False
    # Not at the top: it has models.
    from django.contrib.auth.models import PermissionsMixin

    return getattr(user.__class__, "has_perm", None) is PermissionsMixin.has_perm


def load_readers(users: Sequence[Model], rules: RuleSet) -> list[Reader]:
    """Do as ``load_reader`` for many users of one model, with a few queries for all of them.

    Args:
        users: those for whom ``is_read_with_others``, 500 at most: a database takes no query of any length.
        rules: ask for rights.
    """
    rows = _rows(users[0])
    current = rows.in_bulk({user.pk for user in users})
    found = rows.filter(pk__in=list(current))
    permissions: dict[Any, set[str]] = defaultdict(set)
    groups: dict[Any, set[Any]] = defaultdict(set)
    if rules.permissions:
        names = _permissions_by_key(rules, rows.db)
        for relation in ("user_permissions", "groups__permissions"):
            has_one = found.filter(**{f"{relation}__in": list(names)})
            for pk, key in has_one.values_list("pk", relation).distinct():
                permissions[pk].add(names[key])
    if rules.groups:
        is_in_one = found.filter(groups__in=rules.groups)
        for pk, group in is_in_one.values_list("pk", "groups").distinct():
            groups[pk].add(group)
    return [
        ANONYMOUS
        if (row := current.get(user.pk)) is None
        else _reader(
            row,
            rules.permissions if row.is_superuser else frozenset(permissions[row.pk]),
            frozenset(groups[row.pk]),
        )
        for user in users
    ]


def _reader(user: Any, permissions: frozenset[str], groups: frozenset[Any]) -> Reader:
    reader = reader_of(user)
    rights = Rights()
    if getattr(user, "is_active", True):
        rights = Rights(bool(getattr(user, "is_staff", False)), permissions, groups)
    return Reader(True, reader.pk, reader.username, rights)


def _is_stored(user: Any) -> bool:
    return isinstance(user, Model) and user.pk is not None


def _rows(user: Model) -> Any:
    # A lazy user is of its own class for ``isinstance``, not for ``type``.
    model: Any = user._meta.model
    return model._base_manager.using(router.db_for_write(model))


def _permissions_by_key(rules: RuleSet, database: str) -> dict[Any, str]:
    """Return the names of the permissions that ``rules`` ask for, by primary key."""
    codenames = {name.partition(".")[2] for name in rules.permissions}
    rows = apps.get_model("auth", "Permission")._base_manager.using(database)
    found = rows.filter(codename__in=codenames).values_list(
        "pk", "content_type__app_label", "codename"
    )
    names = {key: f"{label}.{codename}" for key, label, codename in found}
    return {key: name for key, name in names.items() if name in rules.permissions}


def _permissions(user: Any, rules: RuleSet) -> frozenset[str]:
    # A custom user model may have no permissions.
    if not hasattr(user, "has_perm"):
        return frozenset()
    return frozenset(each for each in rules.permissions if user.has_perm(each))


def _groups(user: Any, rules: RuleSet) -> frozenset[Any]:
    # Nor groups.
    if not rules.groups or not hasattr(user, "groups"):
        return frozenset()
    return frozenset(user.groups.filter(pk__in=rules.groups).values_list("pk", flat=True))
