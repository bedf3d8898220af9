"""Rights that are read for many users together: the same as each alone, with a few queries."""

import asyncio
from random import Random
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext, override_settings

from dwsps_channels.core.reader import ANONYMOUS, Reader
from dwsps_channels.core.rule_set import RuleSet
from dwsps_channels.rules import batching
from dwsps_channels.rules.batching import RightsReader
from dwsps_channels.rules.loading import (
    is_read_with_others,
    load_reader,
    load_readers,
    load_rules,
)
from dwsps_channels.threads.pools import ask
from tests.rules.rows import rule

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def users() -> list[User]:
    """Users with rights of all kinds, the last of whom was deleted."""
    random = Random(1)
    permissions = list(Permission.objects.order_by("pk")[:4])
    groups = [Group.objects.create(name=f"group {number}") for number in range(3)]
    groups[0].permissions.set(permissions[:2])
    groups[1].permissions.set(permissions[1:3])
    users = []
    for number in range(40):
        user = User.objects.create_user(
            f"user {number}",
            is_active=random.random() < 0.8,
            is_staff=random.random() < 0.3,
            is_superuser=random.random() < 0.1,
        )
        user.groups.set(random.sample(groups, random.randrange(3)))
        user.user_permissions.set(random.sample(permissions, random.randrange(3)))
        users.append(user)
    User.objects.filter(pk=users[-1].pk).delete()
    return users


@pytest.fixture
def rules(users: list[User]) -> RuleSet:
    for permission in Permission.objects.order_by("pk")[:3]:
        name = f"{permission.content_type.app_label}.{permission.codename}"
        rule(f"for.{permission.pk}", name)
    rule("groups.0", Group.objects.get(name="group 0"))
    rule("groups.2", Group.objects.get(name="group 2"))
    return load_rules()


def test_they_are_those_of_each_alone(users: list[User], rules: RuleSet) -> None:
    alone = [load_reader(user, rules) for user in users]
    assert alone[-1] is ANONYMOUS
    with CaptureQueriesContext(
        connection,
    ) as queries:
        together = load_readers(users, rules)
    assert together == alone
    assert len({reader.rights for reader in alone}) > 10
    assert len(queries) == 5


async def test_users_who_ask_meanwhile_are_read_together(
    users: list[User], rules: RuleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def count(users: list[User], rules: RuleSet) -> list[Reader]:
        sizes.append(len(users))
        return load_readers(users, rules)

    monkeypatch.setattr(batching, "load_readers", count)
    monkeypatch.setattr(batching, "MAX_TOGETHER", 30)
    reader = RightsReader()
    found = await asyncio.gather(*(reader.read(user, rules) for user in users))
    assert found == [await ask(load_reader, user, rules) for user in users]
    assert sizes == [30, 10]


async def test_a_change_is_seen_by_who_asks_after_it(
    users: list[User], rules: RuleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, goes_on = asyncio.Event(), asyncio.Event()

    async def ask_slowly(function: Any, *args: Any) -> Any:
        answer = await ask(function, *args)
        began.set()
        await goes_on.wait()
        return answer

    monkeypatch.setattr(batching, "ask", ask_slowly)
    reader, user = RightsReader(), next(each for each in users if not each.is_staff)
    early = asyncio.ensure_future(reader.read(user, rules))
    await asyncio.wait_for(began.wait(), 10)
    await User.objects.filter(pk=user.pk).aupdate(is_active=True, is_staff=True)
    late = asyncio.ensure_future(reader.read(user, rules))
    await asyncio.sleep(0)
    goes_on.set()
    assert (await early).rights != (await late).rights
    rights = (await late).rights
    assert rights is not None
    assert rights.is_staff


async def test_a_read_that_fails_fails_for_its_own_users_only(
    users: list[User], rules: RuleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = RightsReader()
    with monkeypatch.context() as broken:

        def fail(*args: object) -> None:
            raise LookupError

        broken.setattr(batching, "load_readers", fail)
        first = [asyncio.ensure_future(reader.read(user, rules)) for user in users[:2]]
        first[0].cancel()
        found = await asyncio.gather(*first, return_exceptions=True)
    assert [type(each) for each in found] == [asyncio.CancelledError, LookupError]
    assert await reader.read(users[0], rules) == await ask(load_reader, users[0], rules)


def test_other_backends_are_asked_about_each_user(users: list[User]) -> None:
    assert is_read_with_others(users[0])
    assert not is_read_with_others(None)
    assert not is_read_with_others(User())
    remote = "django.contrib.auth.backends.RemoteUserBackend"
    with override_settings(AUTHENTICATION_BACKENDS=[remote]):
        assert not is_read_with_others(users[0])
