"""Topic rules, against an oracle that looks at every rule for every topic."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.core.identity import Identity
from dwsps_channels.core.policy import Answer
from dwsps_channels.core.reader import ANONYMOUS, Reader, Rights
from dwsps_channels.core.rule import NOBODY, Requirement, RightsUnknown, Rule, Who
from dwsps_channels.core.rule_set import ReaderRules, RuleSet, Verdict
from tests.core.recording import World

EVERYBODY = Requirement(Who.EVERYBODY)
USERS = Requirement(Who.AUTHENTICATED)
STAFF = Requirement(Who.STAFF)
EDITORS = Requirement(Who.GROUP, group=1, group_name="editors")
CHANGERS = Requirement(Who.PERMISSION, permission="news.change")

ADA = Reader(True, "7", "ada", Rights())


def reader(**rights: Any) -> Reader:
    return Reader(True, "7", "ada", Rights(**rights))


def rules(**subscribe: Requirement) -> RuleSet:
    """Rules of which each allows subscribing. ``__`` stands for a dot, ``root`` for every topic."""
    topics = {name: "" if name == "root" else name.replace("__", ".") for name in subscribe}
    return RuleSet(Rule(topics[name], each, NOBODY) for name, each in subscribe.items())


def own(topic: str, requirement: Requirement = USERS) -> Rule:
    return Rule(topic, requirement, requirement)


def allowed(found: RuleSet, topic: str, who: Reader = ADA) -> bool:
    return ReaderRules(found, who).may_subscribe(topic).allowed


def denied(found: RuleSet, topic: str, who: Reader = ADA) -> list[str]:
    verdict = ReaderRules(found, who).may_subscribe(topic)
    assert verdict.allowed
    return [rule.topic for rule in verdict.denied]


class TestDeciding:
    def test_without_rules_nobody_may_anything(self) -> None:
        mine = ReaderRules(RuleSet(), reader(is_staff=True))
        assert mine.may_subscribe("news") == mine.may_publish("news") == Verdict(False, None)

    def test_the_deepest_rule_decides(self) -> None:
        found = rules(root=EVERYBODY, news=NOBODY, news__uk=USERS)
        assert allowed(found, "sport")
        assert not allowed(found, "news")
        assert not allowed(found, "news.fr")
        assert allowed(found, "news.uk.london")
        assert not allowed(found, "news.uk.london", ANONYMOUS)
        assert not allowed(found, "news.ukraine")

    def test_publishing_has_its_own_answer(self) -> None:
        mine = ReaderRules(RuleSet([Rule("news", NOBODY, USERS)]), ADA)
        assert mine.may_publish("news.uk").allowed
        assert not mine.may_subscribe("news.uk").allowed

    def test_the_rule_that_decided_is_named(self) -> None:
        found = rules(root=EVERYBODY, news=NOBODY)
        verdict = ReaderRules(found, ADA).may_subscribe("news.uk")
        assert verdict.rule == found.shared["news"]

    @pytest.mark.parametrize(
        ("requirement", "right"),
        [
            (STAFF, {"is_staff": True}),
            (EDITORS, {"groups": frozenset({1, 2})}),
            (CHANGERS, {"permissions": frozenset({"news.change"})}),
        ],
    )
    def test_a_right_is_needed(self, requirement: Requirement, right: dict[str, Any]) -> None:
        found = rules(news=requirement)
        assert allowed(found, "news", reader(**right))
        assert not allowed(found, "news", reader())
        assert not allowed(found, "news", ANONYMOUS)

    def test_rights_are_asked_for_only_if_the_answer_depends_on_them(self) -> None:
        unloaded = Reader(True, "7", "ada")
        found = rules(news=USERS, desk=STAFF, hall=EVERYBODY, hall__desk=STAFF)
        assert allowed(found, "news", unloaded)
        for topic in ("desk", "hall"):
            with pytest.raises(RightsUnknown):
                allowed(found, topic, unloaded)
        assert not ReaderRules(found, unloaded).may_publish("desk").allowed

    def test_a_set_tells_what_its_rules_ask_for(self) -> None:
        found = RuleSet([Rule("news", EDITORS, CHANGERS), Rule("", NOBODY, STAFF)])
        assert found.permissions == {"news.change"}
        assert found.groups == {1}
        assert rules(news=USERS).permissions == rules(news=USERS).groups == frozenset()


class TestDenying:
    def test_what_deeper_rules_refuse_is_left_out(self) -> None:
        found = rules(root=USERS, news__staff=STAFF, news__uk=EVERYBODY, newspaper=NOBODY)
        assert denied(found, "news") == ["news.staff"]
        assert denied(found, "news", reader(is_staff=True)) == []
        assert denied(found, "news.uk") == []

    def test_below_what_is_left_out_nothing_is_named(self) -> None:
        found = rules(a=EVERYBODY, a__b=NOBODY, a__b__c=NOBODY, a__b__d=EVERYBODY, a__bb=NOBODY)
        assert denied(found, "a") == ["a.b", "a.bb"]
        assert denied(found, "a.b.d") == []

    def test_a_sibling_that_sorts_between_hides_nothing(self) -> None:
        found = rules(a=EVERYBODY, a__b=NOBODY)
        found = RuleSet([*found.shared.values(), Rule("a.b-c", NOBODY, NOBODY)])
        assert denied(found, "a") == ["a.b", "a.b-c"]


class TestOwnTopics:
    @pytest.mark.parametrize(("topic", "mine"), [("users.{pk}", "7"), ("users.{username}", "ada")])
    def test_a_reader_gets_its_own_and_no_other(self, topic: str, mine: str) -> None:
        found = RuleSet([own("", EVERYBODY), own(topic)])
        assert allowed(found, f"users.{mine}")
        assert allowed(found, f"users.{mine}.inbox")
        assert not allowed(found, "users.8")
        assert not allowed(found, "users")
        assert not allowed(found, f"users.{mine}", ANONYMOUS)

    def test_the_rule_above_decides_about_other_readers_topics(self) -> None:
        found = RuleSet([own("users", STAFF), own("users.{pk}")])
        staff = reader(is_staff=True)
        assert allowed(found, "users.8", staff)
        assert allowed(found, "users", staff)
        assert not allowed(found, "users.8")
        assert allowed(found, "users.7")

    def test_others_topics_are_left_out_of_what_is_above(self) -> None:
        assert denied(RuleSet([own("", EVERYBODY), own("app.users.{pk}")]), "app") == ["app.users"]

    def test_an_own_topic_may_be_left_out(self) -> None:
        found = RuleSet([own("users", EVERYBODY), own("users.{pk}.drafts", NOBODY)])
        assert denied(found, "users") == ["users.7.drafts"]
        assert denied(found, "users", ANONYMOUS) == []

    def test_a_rule_for_one_readers_topic_goes_before_that_for_everybodys_own(self) -> None:
        found = RuleSet([own("users"), own("users.{pk}.inbox", NOBODY), own("users.7.inbox")])
        assert allowed(found, "users.7.inbox")
        assert denied(found, "users") == []

    def test_the_verdict_names_the_rule_as_it_was_written(self) -> None:
        rule = ReaderRules(RuleSet([own("users.{pk}")]), ADA).may_subscribe("users.7.inbox").rule
        assert rule is not None
        assert (rule.topic, rule.name) == ("users.7", "users.{pk}")

    @pytest.mark.parametrize("name", ["ada.lovelace", "a b", "", ".", "a\n", "x" * 256])
    def test_a_name_that_is_no_level_has_no_topic(self, name: str) -> None:
        found = RuleSet([own("users.{username}")])
        odd = Reader(True, "7", name, Rights())
        for topic in ("users.ada", "users.ada.lovelace", "users.a"):
            assert not allowed(found, topic, odd)

    def test_whoever_takes_the_name_of_a_topic_gets_nothing_of_it(self) -> None:
        found = RuleSet([own("chat.{username}.inbox"), own("chat.lobby", NOBODY)])
        lobby = Reader(True, "8", "lobby", Rights())
        assert not allowed(found, "chat.lobby", lobby)
        assert not allowed(found, "chat.lobby.inbox", lobby)
        assert allowed(found, "chat.ada.inbox")

    def test_a_name_that_is_anothers_key_gets_nothing(self) -> None:
        found = RuleSet([own("users.{pk}"), own("users.{username}"), own("other.{username}")])
        mallory = Reader(True, "8", "7", Rights())
        assert not allowed(found, "users.7", mallory)
        assert allowed(found, "users.8", mallory)
        assert allowed(found, "other.7", mallory)

    @pytest.mark.parametrize("topic", ["{username}", "{pk}.a", "a.{id}", "a.{pk}.{pk}", "a..b"])
    def test_a_rule_for_no_possible_topic_has_no_effect(self, topic: str) -> None:
        found = RuleSet([own(topic, EVERYBODY)])
        assert found.shared == {}
        assert found.own == []


LEVELS = st.sampled_from(["a", "b", "ada", "7", "a-b"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map(".".join)
REQUIREMENTS = st.sampled_from([EVERYBODY, USERS, STAFF, EDITORS, CHANGERS, NOBODY])
RULE_TOPICS = st.one_of(
    st.just(""),
    TOPICS,
    st.builds(
        lambda head, own, tail: ".".join([head, own, *tail]),
        TOPICS,
        st.sampled_from(["{pk}", "{username}"]),
        st.lists(LEVELS, max_size=2),
    ),
)
RULES = st.dictionaries(RULE_TOPICS, st.tuples(REQUIREMENTS, REQUIREMENTS), max_size=8).map(
    lambda found: [Rule(topic, *requirements) for topic, requirements in found.items()]
)
READERS = st.one_of(
    st.just(ANONYMOUS),
    st.builds(
        Reader,
        st.just(True),
        st.sampled_from(["7", "8"]),
        st.sampled_from(["ada", "7", "a"]),
        st.builds(
            Rights,
            st.booleans(),
            st.sampled_from([frozenset(), frozenset({"news.change"})]),
            st.sampled_from([frozenset(), frozenset({1})]),
        ),
    ),
)


def decides(found: list[Rule], who: Reader, topic: str) -> Rule | None:
    """The rule that decides for a topic: looks at all of them, one by one."""
    levels = topic.split(".")
    written = {rule.topic for rule in found}
    keyed = {each.topic.split(".{pk}")[0] for each in found if ".{pk}" in each.topic}
    named = {each.topic.split(".{")[0] for each in found if ".{" in each.topic}
    best: tuple[int, int] = (-1, 0)
    answer: Rule | None = None
    candidates = [*found, *(Rule(each, NOBODY, NOBODY) for each in named - written)]
    shared = {rule.topic for rule in candidates if ".{" not in rule.topic}
    for rule in candidates:
        pattern = rule.topic.split(".") if rule.topic else []
        is_own = ".{" in rule.topic
        if is_own:
            parent = rule.topic.split(".{")[0]
            if "{username}" in pattern and parent in keyed:
                continue
            mine = who.pk if "{pk}" in pattern else who.username
            if not mine or f"{parent}.{mine}" in shared:
                continue
            pattern = [mine if level in ("{pk}", "{username}") else level for level in pattern]
        if levels[: len(pattern)] == pattern and (len(pattern), not is_own) > best:
            best, answer = (len(pattern), not is_own), rule
    return answer


@given(RULES, READERS, TOPICS)
def test_every_decision_is_the_oracles(found: list[Rule], who: Reader, topic: str) -> None:
    mine = ReaderRules(RuleSet(found), who)
    rule = decides(found, who, topic)
    subscribing, publishing = mine.may_subscribe(topic), mine.may_publish(topic)
    assert (subscribing.rule and subscribing.rule.name) == (rule and rule.topic) or (
        subscribing.rule is not None and subscribing.rule.is_implied
    )
    assert subscribing.allowed is (rule is not None and rule.subscribe.is_met_by(who))
    assert publishing.allowed is (rule is not None and rule.publish.is_met_by(who))


@given(RULES, READERS, TOPICS, st.lists(LEVELS, max_size=3))
def test_a_subscription_gets_exactly_what_every_rule_on_the_way_allows(
    found: list[Rule], who: Reader, topic: str, below: list[str]
) -> None:
    verdict = ReaderRules(RuleSet(found), who).may_subscribe(topic)
    if not verdict.allowed:
        return
    published = ".".join([topic, *below])
    is_delivered = not any(f"{published}.".startswith(f"{rule.topic}.") for rule in verdict.denied)
    way = [".".join([topic, *below[:number]]) for number in range(len(below) + 1)]
    rules_on_the_way = [decides(found, who, each) for each in way]
    assert is_delivered is all(
        rule is not None and rule.subscribe.is_met_by(who) for rule in rules_on_the_way
    )


STRANGERS = [ANONYMOUS, ADA, reader(is_staff=True), Reader(True, "8", "7", Rights())]
# Few, so that subscriptions, publications and refusals meet.
NEAR = st.sampled_from(["a", "a.b", "a.b.7", "a.7", "a.7.b"])
OPEN = Rule("", EVERYBODY, EVERYBODY)
NEAR_RULES = st.dictionaries(
    st.one_of(NEAR, st.sampled_from(["a.{pk}", "a.b.{username}"])),
    st.sampled_from([EVERYBODY, EVERYBODY, USERS, STAFF, NOBODY]),
    max_size=4,
).map(lambda found: [OPEN, *(Rule(topic, who, EVERYBODY) for topic, who in found.items())])
ANYBODY = st.integers(0, len(STRANGERS) - 1)
STEPS = st.one_of(
    st.tuples(st.just("subscribe"), ANYBODY, NEAR),
    st.tuples(st.just("publish"), ANYBODY, NEAR),
    st.tuples(st.just("rules"), NEAR_RULES),
)


class RulesPolicy:
    """Decides by ``rules``, which change; the user of an identity is a reader."""

    def __init__(self, found: list[Rule]) -> None:
        self.rules = RuleSet(found)

    def may_subscribe(self, identity: Identity, topic: str) -> Answer:
        return ReaderRules(self.rules, identity.user).may_subscribe(topic).answer

    def may_publish(self, identity: Identity, topic: str) -> Answer:
        return ReaderRules(self.rules, identity.user).may_publish(topic).answer


def may(found: list[Rule], who: Reader, action: str, topic: str) -> bool:
    rule = decides(found, who, topic)
    return rule is not None and getattr(rule, action).is_met_by(who)


def gets(found: list[Rule], who: Reader, subscribed: set[str], topic: str) -> bool:
    """True if every rule from one of the subscriptions down to the topic allows it."""
    levels = topic.split(".")
    contexts = [".".join(levels[:count]) for count in range(1, len(levels) + 1)]
    return any(
        all(may(found, who, "subscribe", each) for each in contexts[number:])
        for number, context in enumerate(contexts)
        if context in subscribed
    )


@given(NEAR_RULES, st.lists(STEPS, max_size=20))
def test_clients_get_what_the_rules_of_the_moment_allow(
    found: list[Rule], steps: list[tuple[Any, ...]]
) -> None:
    world, policy = World(), RulesPolicy(found)
    clients = [
        world.connect(str(number), identity=Identity(str(number), who), policy=policy)
        for number, who in enumerate(STRANGERS)
    ]
    subscribed: list[set[str]] = [set() for _ in clients]
    for number, (action, *details) in enumerate(steps):
        if action == "rules":
            [found] = details
            policy.rules = RuleSet(found)
            for client, who, topics in zip(clients, STRANGERS, subscribed, strict=True):
                assert client.session.recheck(None) is None
                lost = {each for each in topics if not may(found, who, "subscribe", each)}
                ended = [each["topic"] for each in client.transport.take_whole()]
                assert sorted(ended) == sorted(lost)
                topics -= lost
            continue
        asking, topic = details
        frame = {"type": action, "topic": topic, "message": number}
        if action == "subscribe":
            del frame["message"]
        arrived = {asking: clients[asking].send(json.dumps(frame))}
        is_allowed = may(found, STRANGERS[asking], action, topic)
        replies = [each["type"] for each in arrived[asking] if each["type"] != "publish"]
        assert replies == ["ack" if is_allowed else "error"]
        if action == "subscribe":
            subscribed[asking] |= {topic} if is_allowed else set()
            continue
        for other, (client, who) in enumerate(zip(clients, STRANGERS, strict=True)):
            frames = arrived.get(other) or client.transport.take()
            is_delivered = any(each["type"] == "publish" for each in frames)
            assert is_delivered is (is_allowed and gets(found, who, subscribed[other], topic))
