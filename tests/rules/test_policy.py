"""``TopicRules``: rules and users of a real database, asked as a session asks."""

import asyncio
import re
from copy import copy
from functools import partial
from inspect import isawaitable
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.auth import UserLazyObject
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.db.backends.utils import CursorWrapper
from django.test import override_settings
from django.utils.functional import SimpleLazyObject

from dwsps_channels import apublish
from dwsps_channels.access import apermission_changed
from dwsps_channels.core.policy import Decision, is_allowed
from dwsps_channels.core.reader import Reader
from dwsps_channels.models import TopicRule
from dwsps_channels.policies import Identity, Policy, ThreadOffloadingPolicy, TopicRules
from dwsps_channels.rules.loading import load_readers, reader_of
from dwsps_channels.testing import PubSubCommunicator, Refused
from dwsps_channels.threads.pools import ask
from tests.processes import ROOT, wait_until_async
from tests.rules.rows import rule

pytestmark = pytest.mark.django_db(transaction=True)

VISITOR = Identity("1", AnonymousUser())


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada")


@pytest.fixture
def editors() -> Group:
    return Group.objects.create(name="editors")


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that is executed from now on, in any thread."""
    found: list[str] = []
    execute = CursorWrapper.execute

    def write_down(self: CursorWrapper, sql: str, params: Any = None) -> Any:
        found.append(sql)
        return execute(self, sql, params)

    monkeypatch.setattr(CursorWrapper, "execute", write_down)
    return found


def member(user: User) -> Identity:
    return Identity("2", User.objects.get(pk=user.pk))


async def answer(found: Any) -> Any:
    return await found if isawaitable(found) else found


async def subscribes(policy: Policy, who: Identity, topic: str) -> bool:
    return is_allowed(await answer(policy.may_subscribe(who, topic)))


fresh = sync_to_async(member)


async def test_without_rules_nobody_may_anything_and_hears_why(ada: User) -> None:
    policy = TopicRules()
    refused = Decision(False, "no topic rule is for it")
    for who in (VISITOR, Identity("3"), await fresh(ada)):
        assert await answer(policy.may_subscribe(who, "news")) == refused
        assert await answer(policy.may_publish(who, "news")) == refused


async def test_a_decision_names_what_it_leaves_out_and_which_rule_refuses(ada: User) -> None:
    await sync_to_async(rule)("news", "everybody")
    await sync_to_async(rule)("news.staff", "staff")
    policy, who = TopicRules(), await fresh(ada)
    assert await answer(policy.may_subscribe(who, "news")) == Decision(True, denied=("news.staff",))
    assert await answer(policy.may_subscribe(who, "news.uk")) is True
    assert await answer(policy.may_publish(who, "news.uk")) == Decision(
        False, "by the topic rule for news"
    )


class TestRights:
    @pytest.mark.parametrize("is_superuser", [False, True])
    async def test_a_permission(self, ada: User, is_superuser: bool) -> None:
        await sync_to_async(rule)("peers", "dwsps_channels.view_peer")
        assert not await subscribes(TopicRules(), await fresh(ada), "peers")
        if is_superuser:
            await User.objects.filter(pk=ada.pk).aupdate(is_superuser=True)
        else:
            await ada.user_permissions.aadd(await Permission.objects.aget(codename="view_peer"))
        assert await subscribes(TopicRules(), await fresh(ada), "peers")
        assert not await subscribes(TopicRules(), VISITOR, "peers")

    async def test_a_group(self, ada: User, editors: Group) -> None:
        await sync_to_async(rule)("drafts", editors)
        assert not await subscribes(TopicRules(), await fresh(ada), "drafts")
        await ada.groups.aadd(editors)
        assert await subscribes(TopicRules(), await fresh(ada), "drafts")

    @pytest.mark.parametrize("is_active", [False, True])
    async def test_staff_only_while_active(self, ada: User, is_active: bool) -> None:
        await sync_to_async(rule)("desk", "staff")
        await User.objects.filter(pk=ada.pk).aupdate(is_staff=True, is_active=is_active)
        assert await subscribes(TopicRules(), await fresh(ada), "desk") is is_active

    async def test_a_user_who_was_deleted_is_nobody(self, ada: User) -> None:
        await sync_to_async(rule)("desk", "authenticated")
        await sync_to_async(rule)("desk.staff", "staff")
        who = await fresh(ada)
        await User.objects.all().adelete()
        assert not await subscribes(TopicRules(), who, "desk.staff")

    async def test_a_user_without_a_row_is_taken_as_it_is(self) -> None:
        await sync_to_async(rule)("desk", "staff")
        await sync_to_async(rule)("peers", "dwsps_channels.view_peer")
        user = SimpleNamespace(is_authenticated=True, is_staff=True, pk=7)
        policy, who = TopicRules(), Identity("4", user)
        assert await subscribes(policy, who, "desk")
        assert not await subscribes(policy, who, "peers")
        user.has_perm = {"dwsps_channels.view_peer"}.__contains__
        policy.forget()
        assert await subscribes(policy, who, "peers")

    async def test_own_topics(self, ada: User) -> None:
        await sync_to_async(rule)("users.{pk}", "authenticated")
        await sync_to_async(rule)("named.{username}", "authenticated")
        policy, who = TopicRules(), await fresh(ada)
        assert await subscribes(policy, who, f"users.{ada.pk}.inbox")
        assert await subscribes(policy, who, "named.ada")
        assert not await subscribes(policy, who, f"users.{ada.pk + 1}")
        assert not await subscribes(policy, VISITOR, f"users.{ada.pk}")


class TestQueries:
    async def test_rules_that_need_no_rights_are_decided_at_once(
        self, ada: User, queries: list[str]
    ) -> None:
        await sync_to_async(rule)("news", "everybody", "authenticated")
        await sync_to_async(rule)("users.{pk}", "authenticated")
        policy, who = TopicRules(), await fresh(ada)
        await subscribes(policy, VISITOR, "news")
        before = len(queries)
        assert policy.may_subscribe(VISITOR, "news") is True
        assert policy.may_publish(who, "news.uk") is True
        assert policy.may_subscribe(who, f"users.{ada.pk}") is True
        assert len(queries) == before

    async def test_rights_are_read_once_a_connection(self, ada: User, queries: list[str]) -> None:
        await sync_to_async(rule)("desk", "staff", "staff")
        await User.objects.filter(pk=ada.pk).aupdate(is_staff=True)
        policy, who = TopicRules(), await fresh(ada)
        assert await subscribes(policy, who, "desk")
        before = len(queries)
        assert policy.may_subscribe(who, "desk") is True
        assert policy.may_publish(who, "desk.notes") is True
        assert len(queries) == before
        assert await subscribes(policy, await fresh(ada), "desk")
        assert len(queries) == before + 2  # the test's own look-up, and the user with its rights

    async def test_many_who_ask_at_once_have_the_rules_read_once(self, queries: list[str]) -> None:
        policy = TopicRules()
        await asyncio.gather(*(subscribes(policy, VISITOR, f"news.{n}") for n in range(50)))
        assert sum("topicrule" in each for each in queries) == 1

    @pytest.mark.parametrize("lazy", [SimpleLazyObject, UserLazyObject])
    async def test_a_user_that_is_not_loaded_is_not_loaded_on_the_event_loop(
        self, ada: User, lazy: Any
    ) -> None:
        await sync_to_async(rule)("news", "authenticated")
        policy = TopicRules()
        await subscribes(policy, VISITOR, "news")
        user: Any = SimpleLazyObject(lambda: User.objects.get(pk=ada.pk))
        if lazy is UserLazyObject:
            user = UserLazyObject()
            user._wrapped = await User.objects.aget(pk=ada.pk)
        assert await subscribes(policy, Identity("5", user), "news")
        assert policy.may_subscribe(Identity("5", user), "news") is True


class TestChanges:
    async def test_what_changed_counts_once_the_policy_is_to_forget(self, ada: User) -> None:
        row = await sync_to_async(rule)("desk", "staff")
        policy, who = ThreadOffloadingPolicy(TopicRules()), await fresh(ada)
        assert not await subscribes(policy, who, "desk")
        await User.objects.filter(pk=ada.pk).aupdate(is_staff=True)
        assert not await subscribes(policy, who, "desk")
        policy.forget()
        assert await subscribes(policy, who, "desk")
        await TopicRule.objects.filter(pk=row.pk).aupdate(subscribe="nobody")
        policy.forget()
        assert not await subscribes(policy, who, "desk")

    async def test_the_rights_of_one_user_are_read_again_and_no_others(
        self, ada: User, queries: list[str]
    ) -> None:
        await sync_to_async(rule)("desk", "staff")
        bob = await User.objects.acreate(username="bob")
        policy = ThreadOffloadingPolicy(TopicRules())
        people = [await fresh(ada), await fresh(bob)]
        for who in people:
            assert not await subscribes(policy, who, "desk")
        await User.objects.aupdate(is_staff=True)
        policy.forget(str(ada.pk))
        before = len(queries)
        assert [await subscribes(policy, who, "desk") for who in people] == [True, False]
        assert len(queries) == before + 1
        policy.forget()
        assert [await subscribes(policy, who, "desk") for who in people] == [True, True]

    async def test_rights_are_read_again_only_if_new_rules_ask_for_others(
        self, ada: User, editors: Group, queries: list[str]
    ) -> None:
        await sync_to_async(rule)("desk", "dwsps_channels.view_peer")
        policy = ThreadOffloadingPolicy(TopicRules())
        who = await fresh(ada)
        assert not await subscribes(policy, who, "desk")
        await sync_to_async(rule)("hall", "staff")
        await ada.groups.aadd(editors)
        policy.forget_rules()
        queries.clear()
        assert not await subscribes(policy, who, "hall")
        assert ["topicrule" in each for each in queries] == [True]
        await sync_to_async(rule)("drafts", editors)
        policy.forget_rules()
        assert await subscribes(policy, who, "drafts")
        # What was read for more rules does for fewer.
        await TopicRule.objects.filter(topic="desk").adelete()
        policy.forget_rules()
        queries.clear()
        assert await subscribes(policy, who, "drafts")
        assert ["topicrule" in each for each in queries] == [True]

    async def test_a_policy_that_asks_the_rules_need_not_forget(self, ada: User) -> None:
        class Asking:
            def __init__(self) -> None:
                rules = TopicRules()
                self.may_subscribe = rules.may_subscribe
                self.may_publish = rules.may_publish

        await sync_to_async(rule)("desk", "staff")
        policy, who = ThreadOffloadingPolicy(Asking()), await fresh(ada)
        assert not await subscribes(policy, VISITOR, "news")
        assert not await subscribes(policy, who, "desk")
        await sync_to_async(rule)("news", "everybody")
        policy.forget_rules()
        assert await subscribes(policy, VISITOR, "news")
        await User.objects.aupdate(is_staff=True)
        policy.forget(str(ada.pk))
        assert await subscribes(policy, who, "desk")

    async def test_after_very_many_users_everybody_is_read_again(
        self, ada: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dwsps_channels.rules.policy.MAX_CHANGED", 2)
        await sync_to_async(rule)("desk", "staff")
        policy, who = TopicRules(), await fresh(ada)
        assert not await subscribes(policy, who, "desk")
        await User.objects.aupdate(is_staff=True)
        for number in range(2):
            policy.forget(f"{ada.pk}0{number}")
            assert not await subscribes(policy, who, "desk")
        policy.forget(f"{ada.pk}02")
        assert await subscribes(policy, who, "desk")

    async def test_what_was_read_before_a_change_is_not_kept(self, ada: User) -> None:
        row = await sync_to_async(rule)("desk", "staff")
        await User.objects.filter(pk=ada.pk).aupdate(is_staff=True)
        policy, who = TopicRules(), await fresh(ada)
        early = asyncio.ensure_future(subscribes(policy, who, "desk"))
        await asyncio.sleep(0)  # the question is on its way
        await TopicRule.objects.filter(pk=row.pk).aupdate(subscribe="nobody")
        policy.forget()
        late = asyncio.ensure_future(subscribes(policy, who, "desk"))
        await early
        assert not await late
        assert not await subscribes(policy, who, "desk")

    async def test_rules_that_cannot_be_read_are_read_later(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await sync_to_async(rule)("news", "everybody")
        policy = TopicRules()
        with monkeypatch.context() as broken:

            def fail(*args: object) -> None:
                raise LookupError

            broken.setattr("dwsps_channels.rules.policy.load_rules", fail)
            results = await asyncio.gather(
                *(subscribes(policy, VISITOR, "news") for _ in range(2)), return_exceptions=True
            )
            assert [type(each) for each in results] == [LookupError, LookupError]
        assert await subscribes(policy, VISITOR, "news")

    def test_a_policy_that_remembers_nothing_need_not_forget(self) -> None:
        policy = ThreadOffloadingPolicy(SimpleNamespace(may_subscribe=bool, may_publish=bool))
        policy.forget()
        policy.forget_rules()


@override_settings(DWSPS={"POLICY": "dwsps_channels.policies.TopicRules"})
async def test_a_client_gets_what_the_rules_allow(ada: User) -> None:
    await sync_to_async(rule)("news", "everybody", "authenticated")
    who = await fresh(ada)
    async with PubSubCommunicator(user=who.user) as client, PubSubCommunicator() as visitor:
        await visitor.subscribe("news")
        await client.publish("news.uk", "hello")
        assert (await visitor.receive())["message"] == "hello"
        with pytest.raises(Refused, match="by the topic rule for news"):
            await visitor.publish("news.uk", "no")


class TestConnections:
    """Changes, by way of notices, to subscriptions that stand."""

    @pytest.fixture(autouse=True)
    def topic_rules(self, settings: Any) -> None:
        settings.DWSPS = {"POLICY": "dwsps_channels.policies.TopicRules"}

    async def test_a_rule_that_is_changed_ends_them(self) -> None:
        row = await sync_to_async(rule)("news", "everybody")
        async with PubSubCommunicator() as client:
            await client.subscribe("news.uk")
            row.subscribe = "authenticated"
            await sync_to_async(row.save)()
            await apublish("news.uk", "late")
            error = await ended(client, "news.uk")
            assert error.code == "forbidden"
            assert error.reason.endswith("by the topic rule for news")
            assert await client.received_nothing()

    async def test_a_rule_that_is_deleted_ends_them(self) -> None:
        await sync_to_async(rule)("news", "everybody")
        async with PubSubCommunicator() as client:
            await client.subscribe("news")
            await TopicRule.objects.all().adelete()
            assert (await ended(client, "news")).reason.endswith("no topic rule is for it")

    async def test_a_deeper_rule_keeps_its_topic_from_them(self) -> None:
        await sync_to_async(rule)("news", "everybody")
        async with PubSubCommunicator() as client:
            await client.subscribe("news")
            await sync_to_async(rule)("news.staff", "staff")
            await apublish("news.staff", "for staff")
            await apublish("news", "for all")
            assert (await client.receive())["message"] == "for all"
            await TopicRule.objects.filter(topic="news.staff").aupdate(subscribe="everybody")
            await apublish("news.staff", "now for all")
            assert (await client.receive())["message"] == "now for all"

    @pytest.mark.parametrize("is_lazy", [False, True])
    async def test_a_group_that_is_taken_away_ends_them(
        self, ada: User, editors: Group, is_lazy: bool
    ) -> None:
        await sync_to_async(rule)("drafts", editors)
        await sync_to_async(rule)("named.{username}", "authenticated")
        await ada.groups.aadd(editors)
        user: Any = (await fresh(ada)).user
        if is_lazy:
            user = SimpleLazyObject(partial(copy, user))
            assert user.pk == ada.pk  # loads it, as a middleware does
        async with PubSubCommunicator(user=user) as client:
            await client.subscribe("drafts")
            await client.subscribe("named.ada")
            await ada.groups.aremove(editors)
            await apublish("drafts", "late")
            await apublish("named.ada", "hello")
            assert (await ended(client, "drafts")).code == "forbidden"
            assert (await client.receive())["message"] == "hello"

    @pytest.mark.parametrize("action", ["subscribe", "publish"])
    async def test_what_is_being_decided_meanwhile_is_decided_by_the_new_rules(
        self, ada: User, monkeypatch: pytest.MonkeyPatch, action: str
    ) -> None:
        row = await sync_to_async(rule)("desk", "staff", "staff")
        await User.objects.aupdate(is_staff=True)
        has_read, goes_on = asyncio.Event(), asyncio.Event()

        async def ask_slowly(function: Any, *args: Any) -> Any:
            answer = await ask(function, *args)
            if function is load_readers and not has_read.is_set():
                has_read.set()
                await goes_on.wait()
            return answer

        monkeypatch.setattr("dwsps_channels.rules.batching.ask", ask_slowly)
        async with PubSubCommunicator(user=(await fresh(ada)).user) as client:
            asked = asyncio.ensure_future(
                client.subscribe("desk") if action == "subscribe" else client.publish("desk", 1)
            )
            await asyncio.wait_for(has_read.wait(), 10)
            await sync_to_async(row.delete)()
            goes_on.set()
            with pytest.raises(Refused, match="no topic rule is for it"):
                await asked

    async def test_after_sql_the_server_is_told(self, ada: User) -> None:
        await sync_to_async(rule)("desk", "staff")
        await User.objects.aupdate(is_staff=True)
        async with PubSubCommunicator(user=(await fresh(ada)).user) as client:
            await client.subscribe("desk")
            await User.objects.aupdate(is_staff=False)
            await apermission_changed()
            assert (await ended(client, "desk")).code == "forbidden"


async def test_the_documented_rules_with_code_of_the_projects_own(
    ada: User, editors: Group, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/how-to/policies.md, "Rules and your own code"."""
    page = ROOT / "docs" / "how-to" / "policies.md"
    [code] = re.findall(
        r"^```python\n([^`]*class RulesAndRooms.*?)^```$", page.read_text(), re.M | re.S
    )
    names: dict[str, Any] = {}
    exec(code, names)
    monkeypatch.setattr(f"{__name__}.Documented", names["RulesAndRooms"], raising=False)
    settings.DWSPS = {"POLICY": f"{__name__}.Documented"}
    await sync_to_async(rule)("drafts", editors)
    await ada.groups.aadd(editors)
    async with PubSubCommunicator(user=(await fresh(ada)).user) as client:
        for topic in ("rooms.editors", "drafts"):
            await client.subscribe(topic)
        for topic in ("rooms", "rooms.others", "news"):
            with pytest.raises(Refused, match="forbidden"):
                await client.subscribe(topic)
        await client.publish("rooms.editors", "hello")
        assert (await client.receive())["message"] == "hello"
        await ada.groups.aremove(editors)
        for topic in ("rooms.editors", "drafts"):
            assert (await ended(client, topic)).code == "forbidden"


async def ended(client: PubSubCommunicator, topic: str) -> Refused:
    """Wait until the server has ended a subscription, and return why."""

    async def told() -> Refused | None:
        await client.unsubscribe("another")  # reads on, whatever the client may
        return client.ended.get(topic)

    await wait_until_async(told)
    return client.ended[topic]


def test_a_row_of_another_model_has_no_topics_of_its_own() -> None:
    """Its primary key may be a user's: a token may stand for a device, say."""
    device = Group(pk=7, name="seven")
    device.is_authenticated = True  # type: ignore[attr-defined]
    assert reader_of(device) == Reader(is_authenticated=True)
    assert reader_of(User(pk=7, username="seven")).pk == "7"
