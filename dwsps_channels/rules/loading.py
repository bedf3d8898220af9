"""Topic rules and rights of users, read from the database."""

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import router
from django.db.models import Model

from dwsps_channels.core.reader import ANONYMOUS, Reader, Rights
from dwsps_channels.core.rule_set import RuleSet


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
    return RuleSet(row.as_rule() for row in rows.select_related("subscribe_group", "publish_group"))


def reader_of(user: Any) -> Reader:
    """Return the user as rules see it, without rights: no query is made for a user that is loaded.

    Args:
        user: a Django user, anonymous or not, or ``None``.
    """
    if not getattr(user, "is_authenticated", False):
        return ANONYMOUS
    pk, name = getattr(user, "pk", None), getattr(user, "get_username", str)()
    return Reader(True, "" if pk is None else str(pk), str(name))


def load_reader(user: Any, rules: RuleSet) -> Reader:
    """Return the user as rules see it, with the rights that ``rules`` ask for.

    A user with a row is read again: it may have changed since the connection was opened. One without a row, as some
    tokens stand for, is taken as it is. A user who was deleted is nobody.
    """
    if not getattr(user, "is_authenticated", False):
        return ANONYMOUS
    is_stored = isinstance(user, Model) and user.pk is not None
    current = _stored(user) if is_stored else user
    if current is None:
        return ANONYMOUS
    reader = reader_of(current)
    if not getattr(current, "is_active", True):
        rights = Rights()
    else:
        rights = Rights(
            is_staff=bool(getattr(current, "is_staff", False)),
            permissions=_permissions(current, rules),
            groups=_groups(current, rules) if is_stored else frozenset(),
        )
    return Reader(True, reader.pk, reader.username, rights)


def _stored(user: Model) -> Any:
    # A lazy user is of its own class for ``isinstance``, not for ``type``.
    model: Any = user._meta.model
    rows = model._base_manager.using(router.db_for_write(model))
    return rows.filter(pk=user.pk).first()


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
