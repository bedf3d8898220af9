"""Receivers of Django's signals by which somebody loses access: the connections concerned hear of it.

``QuerySet.update()``, bulk operations and SQL send no signals: call ``permission_changed()`` after them.
"""

import logging
from functools import partial
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.core.exceptions import FieldDoesNotExist
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.db.transaction import TransactionManagementError

from dwsps_channels.conf import conf
from dwsps_channels.core.identity import hash_session_key
from dwsps_channels.core.notice import Disconnect, Notice, Rules, Verify
from dwsps_channels.exceptions import NotServing
from dwsps_channels.models.topic_rule import TopicRule, rules_changed
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.publishing.notifying import lost_notices, notify, notify_later

logger = logging.getLogger("dwsps_channels.access")

WATCHED: Final = frozenset({"password", "is_active", "is_staff", "is_superuser"})
"""The fields of a user that Django decides by. A save of others alone, such as ``last_login``, changes no access."""

NAMES: Final = {"auth.Group": ("name",), "auth.Permission": ("codename", "content_type_id")}
"""The fields by which policies and rules name groups and permissions."""

# Above this number of users who join or leave a group at once, everybody is looked up again.
MAX_USERS: Final = 20

_CHANGES: Final = frozenset({"post_add", "post_remove", "post_clear"})


def connect() -> None:
    """Connect the receivers. Call it once all models are loaded."""
    post_save.connect(_rules_changed, sender=TopicRule)
    rules_changed.connect(_rules_changed, sender=TopicRule)
    if not apps.is_installed("django.contrib.auth"):
        return
    user_model = get_user_model()
    user_logged_in.connect(_logged_in)
    user_logged_out.connect(_logged_out)
    for model in apps.get_models():
        # A proxy's signals name the proxy.
        if issubclass(model, user_model):
            post_save.connect(_user_saved, sender=model)
            post_delete.connect(_user_deleted, sender=model)
    for name in ("groups", "user_permissions"):
        if (field := _relation(user_model, name)) is not None:
            through = field.remote_field.through
            m2m_changed.connect(_users_changed, sender=through)
            if not through._meta.auto_created:
                # A model of the project's: its rows are written directly as well.
                user = through._meta.get_field(field.m2m_field_name()).attname
                for signal in (post_save, post_delete):
                    signal.connect(partial(_membership_changed, user), sender=through, weak=False)
    for name, fields in NAMES.items():
        model = apps.get_model(name)
        post_delete.connect(_everybody_changed, sender=model)
        pre_save.connect(partial(_note_name, fields), sender=model, weak=False)
        post_save.connect(_saved_with_name, sender=model)
    permissions = _relation(apps.get_model("auth.Group"), "permissions")
    m2m_changed.connect(_everybody_changed, sender=permissions.remote_field.through)


def _relation(model: type[Model], name: str) -> Any:
    """Return the field of a many-to-many relation; ``None``: ``model`` has none of this name."""
    try:
        field: Any = model._meta.get_field(name)
    except FieldDoesNotExist:
        return None
    return field if field.many_to_many else None


def _logged_in(request: Any = None, **kwargs: Any) -> None:
    # The login has replaced the session of the request's cookie, which may have been another user's: Django sends no
    # ``user_logged_out`` then.
    before = getattr(request, "COOKIES", {}).get(settings.SESSION_COOKIE_NAME)
    if before and before != getattr(getattr(request, "session", None), "session_key", None):
        _notify(Verify(session=hash_session_key(before)))


def _logged_out(request: Any = None, **kwargs: Any) -> None:
    # The session is there until the receivers have returned.
    key = getattr(getattr(request, "session", None), "session_key", None)
    if key:
        _notify(Disconnect(session=hash_session_key(key)))


def _user_saved(
    instance: Any, created: bool, using: str, update_fields: Any = None, **kwargs: Any
) -> None:
    # Topics may have the user's name in them.
    watched = WATCHED | {instance.USERNAME_FIELD}
    if not created and (update_fields is None or not watched.isdisjoint(update_fields)):
        _notify(Verify(str(instance.pk)), using)


def _user_deleted(instance: Any, using: str, **kwargs: Any) -> None:
    _notify(Verify(str(instance.pk)), using)


def _users_changed(
    instance: Any, action: str, reverse: bool, pk_set: Any, using: str, **kwargs: Any
) -> None:
    """Take note that a user got or lost groups or permissions, or, in ``reverse``, that one of these got or lost users."""
    if action not in _CHANGES or (pk_set is not None and not pk_set):
        return
    taken = action != "post_add"
    if not reverse:
        _notify(Verify(str(instance.pk), revokes=taken), using)
    elif pk_set is None or len(pk_set) > MAX_USERS:
        _notify(Verify(revokes=taken), using)
    else:
        for key in pk_set:
            _notify(Verify(str(key), revokes=taken), using)


def _membership_changed(
    user: str, instance: Any, using: str, created: bool = False, **kwargs: Any
) -> None:
    """Take note of one row of such a relation. ``user`` is the attribute that has the user's primary key."""
    _notify(Verify(str(getattr(instance, user)), revokes=not created), using)


def _everybody_changed(
    using: str, action: str | None = None, pk_set: Any = None, **kwargs: Any
) -> None:
    if action is None or (action in _CHANGES and (pk_set is None or pk_set)):
        _notify(Verify(revokes=action != "post_add"), using)


def _note_name(
    fields: tuple[str, ...], sender: type[Model], instance: Any, using: str, **kwargs: Any
) -> None:
    """Note on a group or a permission whether its save renames it. Until then its row has the old name."""
    if instance.pk is not None:
        rows = sender._base_manager.using(using).filter(pk=instance.pk)
        before = rows.values_list(*fields).first()
        after = tuple(getattr(instance, each) for each in fields)
        instance._dwsps_is_renamed = before not in (None, after)


def _saved_with_name(instance: Any, using: str, **kwargs: Any) -> None:
    # Users who were allowed something by the old name may have lost it.
    if instance.__dict__.pop("_dwsps_is_renamed", False):
        _notify(Verify(revokes=True), using)


def _rules_changed(using: str, **kwargs: Any) -> None:
    _notify(Rules(), using, always=True)


def _notify(notice: Notice, using: str | None = None, *, always: bool = False) -> None:
    """Send ``notice`` on commit, if ``REVOKE`` is set. What Django does succeeds, even if nobody hears of it.

    ``always``: whatever ``REVOKE`` is.
    """
    try:
        if always or conf.REVOKE:
            notify(notice, using=using)
    except (NotServing, Unavailable) as error:
        notify_later(notice, error)
    except TransactionManagementError as error:
        lost_notices.add(str(error))
    except Exception:
        logger.exception("connections could not be told that access has changed")
