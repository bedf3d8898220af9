"""The changes of Django's own of which connections hear: which notices they send."""

import logging
from collections.abc import Callable
from contextlib import suppress

import pytest
from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.backends.db import SessionStore
from django.core import serializers
from django.db import transaction
from django.db.models import Model
from django.http import HttpRequest
from django.test import Client, override_settings

from dwsps_channels.core.identity import hash_session_key
from dwsps_channels.core.notice import Disconnect, Rules, Verify
from dwsps_channels.models import TopicRule
from dwsps_channels.protocol.errors import Unavailable
from tests.access.recording import RecordingNotifier

# Notices are sent on commit.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def user(notifier: RecordingNotifier) -> User:
    found = User.objects.create_user("ann", password="secret")
    assert notifier.take() == []  # nobody can be connected as a user that is new
    return found


@pytest.fixture
def group(notifier: RecordingNotifier) -> Group:
    return Group.objects.create(name="staff")


def save(*fields: str) -> Callable[[User], object]:
    return lambda user: user.save(update_fields=fields or None)


@pytest.mark.parametrize(
    "change",
    [
        save(),
        save("password"),
        save("is_active", "email"),
        save("is_staff"),
        save("is_superuser"),
        save("username"),
        lambda user: user.set_password("other") or user.save(),
        lambda user: user.delete(),
    ],
)
def test_a_user_that_is_saved_or_deleted_is_looked_up_again(
    notifier: RecordingNotifier, user: User, change: Callable[[User], object]
) -> None:
    key = str(user.pk)
    change(user)
    assert notifier.take() == [Verify(key)]


@pytest.mark.parametrize("change", [save("last_login"), save("email", "first_name")])
def test_other_fields_change_no_access(
    notifier: RecordingNotifier, user: User, change: Callable[[User], object]
) -> None:
    change(user)
    assert notifier.take() == []


def test_a_login_changes_nothing_and_a_logout_ends_the_session(
    notifier: RecordingNotifier, user: User
) -> None:
    browser = Client()
    browser.force_login(user)
    assert notifier.take() == []
    key = browser.session.session_key
    assert key is not None
    browser.logout()
    assert notifier.take() == [Disconnect(session=hash_session_key(key))]


def test_a_login_over_a_session_has_that_looked_up_again(
    notifier: RecordingNotifier, user: User
) -> None:
    """The session is gone, and Django sends no ``user_logged_out``."""
    other = User.objects.create_user("bob", password="secret")
    request = HttpRequest()
    request.session = SessionStore()
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    assert notifier.take() == []
    before = request.session.session_key
    assert before is not None
    request.COOKIES[settings.SESSION_COOKIE_NAME] = before
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    assert notifier.take() == []  # the session stays
    login(request, other, backend="django.contrib.auth.backends.ModelBackend")
    assert notifier.take() == [Verify(session=hash_session_key(before))]


def test_groups_of_a_user(notifier: RecordingNotifier, user: User, group: Group) -> None:
    got = [Verify(str(user.pk))]
    lost = [Verify(str(user.pk), revokes=True)]
    user.groups.add(group)
    assert notifier.take() == got
    user.groups.add(group)
    assert notifier.take() == []  # it was there already
    user.groups.remove(group)
    assert notifier.take() == lost
    user.groups.set([group])
    assert notifier.take() == got
    user.groups.clear()
    assert notifier.take() == lost


def test_users_of_a_group(notifier: RecordingNotifier, user: User, group: Group) -> None:
    group.user_set.add(user)
    assert notifier.take() == [Verify(str(user.pk))]
    group.user_set.clear()
    assert notifier.take() == [Verify(revokes=True)]


def test_many_users_of_a_group_are_everybody(notifier: RecordingNotifier, group: Group) -> None:
    users = User.objects.bulk_create(User(username=f"user {number}") for number in range(21))
    group.user_set.add(*users)
    assert notifier.take() == [Verify()]


def test_permissions_of_a_user(notifier: RecordingNotifier, user: User) -> None:
    permission = Permission.objects.first()
    assert permission is not None
    user.user_permissions.add(permission)
    assert notifier.take() == [Verify(str(user.pk))]


def test_permissions_of_a_group_concern_everybody(
    notifier: RecordingNotifier, group: Group
) -> None:
    permission = Permission.objects.first()
    assert permission is not None
    group.permissions.add(permission)
    assert notifier.take() == [Verify()]
    group.permissions.add(permission)
    assert notifier.take() == []  # it was there already
    group.permissions.clear()
    assert notifier.take() == [Verify(revokes=True)]
    group.delete()
    assert notifier.take() == [Verify(revokes=True)]


def rename(instance: Model, **values: str) -> None:
    for name, value in values.items():
        setattr(instance, name, value)
    instance.save()


def loaded(instance: Model, **values: str) -> None:
    """Save it as a fixture does that names it otherwise."""
    for name, value in values.items():
        setattr(instance, name, value)
    [found] = serializers.deserialize("json", serializers.serialize("json", [instance]))
    found.save()


@pytest.mark.parametrize("save", [rename, loaded])
def test_a_group_or_a_permission_that_is_renamed_concerns_everybody(
    notifier: RecordingNotifier, group: Group, save: Callable[..., None]
) -> None:
    """Policies and rules name them."""
    permission = Permission.objects.first()
    assert permission is not None
    save(group, name="editors")
    assert notifier.take() == [Verify(revokes=True)]
    save(permission, codename="another")
    assert notifier.take() == [Verify(revokes=True)]
    permission.content_type = ContentType.objects.exclude(pk=permission.content_type_id)[0]
    permission.save()
    assert notifier.take() == [Verify(revokes=True)]


def test_one_that_is_made_or_saved_with_the_same_name_concerns_nobody(
    notifier: RecordingNotifier, group: Group
) -> None:
    group.save()
    Group.objects.create(name="editors")
    Group(pk=1000, name="readers").save()
    permission = Permission.objects.first()
    assert permission is not None
    rename(permission, name="May do something")  # for people
    assert notifier.take() == []


def test_what_django_does_succeeds_even_if_nobody_hears_of_it(
    notifier: RecordingNotifier, user: User, caplog: pytest.LogCaptureFixture
) -> None:
    notifier.problem = Unavailable("redis is away")
    with caplog.at_level(logging.WARNING):
        user.save()
    assert "redis is away (1)" in caplog.text
    notifier.problem = KeyError("a defect")
    with caplog.at_level(logging.ERROR):
        user.save()
    assert "a defect" in caplog.text


def test_the_log_tells_of_a_change_whose_commit_cannot_be_waited_for(
    notifier: RecordingNotifier, user: User, caplog: pytest.LogCaptureFixture
) -> None:
    transaction.set_autocommit(False)
    try:
        user.save()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)
    assert notifier.take() == []
    assert "a transaction made by hand" in caplog.text


def test_they_can_be_turned_off(notifier: RecordingNotifier, user: User) -> None:
    with override_settings(DWSPS={"REVOKE": False}):
        user.save()
        user.delete()
    assert notifier.take() == []


def a_rule(topic: str = "news") -> TopicRule:
    return TopicRule.objects.get(topic=topic)


class TestTopicRules:
    """Rules are read again by every process, whatever ``REVOKE`` says."""

    @pytest.fixture(autouse=True)
    def rules(self, notifier: RecordingNotifier) -> None:
        TopicRule.objects.bulk_create([TopicRule(topic="news"), TopicRule(topic="desk")])
        assert notifier.take() == [Rules()]

    @pytest.mark.parametrize(
        "change",
        [
            lambda: TopicRule.objects.create(topic="a"),
            lambda: a_rule().save(),
            lambda: a_rule().save(update_fields=["publish"]),
            lambda: a_rule().delete(),
            lambda: TopicRule.objects.all().delete(),
            lambda: TopicRule.objects.update(subscribe="everybody"),
            lambda: TopicRule.objects.bulk_update([a_rule()], ["publish"]),
            lambda: TopicRule.objects.bulk_create([TopicRule(topic="a"), TopicRule(topic="b")]),
        ],
    )
    def test_each_change_is_told_once(
        self, notifier: RecordingNotifier, change: Callable[[], object]
    ) -> None:
        with override_settings(DWSPS={"REVOKE": False}):
            change()
        assert notifier.take() == [Rules()]

    def test_a_fixture_that_is_loaded_is_told(self, notifier: RecordingNotifier) -> None:
        [loaded] = serializers.deserialize("json", serializers.serialize("json", [a_rule()]))
        loaded.save()
        assert notifier.take() == [Rules()]

    def test_a_change_is_told_on_commit(self, notifier: RecordingNotifier) -> None:
        with suppress(LookupError), transaction.atomic():
            a_rule().delete()
            raise LookupError
        with transaction.atomic():
            TopicRule.objects.all().delete()
            assert notifier.take() == []
        assert notifier.take() == [Rules()]
