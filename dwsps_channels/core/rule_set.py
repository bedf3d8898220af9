"""Topic rules and their decisions: the deepest rule decides."""

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from dwsps_channels.core.policy import Answer, Decision
from dwsps_channels.core.reader import Reader
from dwsps_channels.core.rule import (
    NOBODY,
    InvalidRuleTopic,
    Rule,
    check_rule_topic,
    parent_of_own,
    placeholder_in,
)
from dwsps_channels.protocol.errors import InvalidTopic
from dwsps_channels.protocol.topics import check, contexts


class Verdict(Struct, frozen=True):
    """An answer, and the rules that gave it."""

    allowed: bool
    rule: Rule | None
    """Decided; ``None``: no rule is for the topic."""
    denied: tuple[Rule, ...] = ()
    """Their topics, and all below these, are left out of a subscription that is allowed."""

    @property
    def answer(self) -> Answer:
        """The answer of a policy that decides so."""
        if self.allowed:
            return (
                Decision(True, denied=tuple(each.topic for each in self.denied))
                if self.denied
                else True
            )
        if self.rule is None:
            return Decision(False, "no topic rule is for it")
        return Decision(False, f"by the topic rule for {self.rule.name or 'every topic'}")


class RuleSet:
    """All rules at one moment. It does not change.

    Rules that ``check_rule_topic`` refuses have no effect: see ``ignored``. A rule for ``users.{pk}`` is for each reader's own topic. The
    topics beside it are other readers': if there is no rule for ``users``, one is implied that allows nobody anything.
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        rules = list(rules)
        problems = {rule.topic: _problem_with(rule.topic) for rule in rules}
        written = [rule for rule in rules if not problems[rule.topic]]
        self.ignored: Final = {topic: problem for topic, problem in problems.items() if problem}
        """The topics of the rules that have no effect, and why. Nobody has checked them."""
        self.shared: Final = {
            rule.topic: rule for rule in written if placeholder_in(rule.topic) is None
        }
        """By topic, the rules that are the same for all readers."""
        own = [rule for rule in written if placeholder_in(rule.topic) is not None]
        # A user may be named as another one's primary key.
        by_pk = {parent_of_own(rule.topic) for rule in own if "{pk}" in rule.topic}
        self.own: Final = [
            rule for rule in own if "{pk}" in rule.topic or parent_of_own(rule.topic) not in by_pk
        ]
        """The rules with a placeholder."""
        for rule in own:
            parent = parent_of_own(rule.topic)
            self.shared.setdefault(parent, Rule(parent, NOBODY, NOBODY, rule.topic, True))
        self._topics = sorted(self.shared)
        requirements = [each for rule in written for each in (rule.subscribe, rule.publish)]
        self.permissions: Final = frozenset(each.permission for each in requirements) - {""}
        """The permissions that rules ask for."""
        self.groups: Final[frozenset[Hashable]] = frozenset(each.group for each in requirements) - {
            None
        }
        """The groups that rules ask for, by primary key."""

    def asks_for_all_of(self, other: "RuleSet") -> bool:
        """Return whether these rules ask for all rights of a user that those of ``other`` ask for."""
        return other.permissions <= self.permissions and other.groups <= self.groups

    def below(self, topic: str) -> Iterator[Rule]:
        """Yield the shared rules below ``topic``, a parent before its children."""
        prefix = f"{topic}."
        for number in range(bisect_left(self._topics, prefix), len(self._topics)):
            found = self._topics[number]
            if not found.startswith(prefix):
                return
            yield self.shared[found]


class ReaderRules:
    """The rules as they are for one reader."""

    __slots__ = ("_own", "reader", "rules")

    def __init__(self, rules: RuleSet, reader: Reader) -> None:
        self.rules: Final = rules
        self.reader: Final = reader
        self._own = {rule.topic: rule for rule in _own_rules(rules, reader)}

    def may_publish(self, topic: str) -> Verdict:
        """Decide about publishing to a valid topic.

        Raises:
            RightsUnknown: the answer depends on the reader's rights, which are not loaded.
        """
        rule = self._deciding(topic)
        return Verdict(rule is not None and rule.publish.is_met_by(self.reader), rule)

    def may_subscribe(self, topic: str) -> Verdict:
        """Decide about subscribing to a valid topic.

        Raises:
            RightsUnknown: the answer depends on the reader's rights, which are not loaded.
        """
        rule = self._deciding(topic)
        if rule is None or not rule.subscribe.is_met_by(self.reader):
            return Verdict(False, rule)
        return Verdict(True, rule, tuple(self._denied_below(topic)))

    def _deciding(self, topic: str) -> Rule | None:
        shared, own = self.rules.shared, self._own
        for each in contexts(topic):
            if (rule := shared.get(each) or own.get(each)) is not None:
                return rule
        return shared.get("")

    def _denied_below(self, topic: str) -> Iterator[Rule]:
        below: Iterable[Rule] = self.rules.below(topic)
        if self._own:
            prefix = f"{topic}."
            mine = [rule for rule in self._own.values() if rule.topic.startswith(prefix)]
            # A parent sorts before its children.
            below = sorted((*below, *mine), key=lambda rule: rule.topic)
        denied: set[str] = set()
        for rule in below:
            if denied.isdisjoint(contexts(rule.topic)) and not rule.subscribe.is_met_by(
                self.reader
            ):
                denied.add(rule.topic)
                yield rule


def _problem_with(topic: str) -> str:
    try:
        check_rule_topic(topic)
    except InvalidRuleTopic as error:
        return str(error)
    return ""


def _own_rules(rules: RuleSet, reader: Reader) -> Iterator[Rule]:
    """Yield the rules with a placeholder, for the topics of one reader."""
    names = {"{pk}": reader.pk, "{username}": reader.username}
    for rule in rules.own:
        placeholder = placeholder_in(rule.topic)
        assert placeholder is not None
        name = names[placeholder]
        # 'ada.lovelace' would be below the topic of a user 'ada'.
        if not name or "." in name:
            continue
        parent = parent_of_own(rule.topic)
        # Somebody may take the name of a topic that has a rule.
        if f"{parent}.{name}" in rules.shared:
            continue
        topic = rule.topic.replace(placeholder, name)
        try:
            check(topic)
        except InvalidTopic:
            continue  # a name with a space, say, is no level
        if topic not in rules.shared:
            yield replace(rule, topic=topic, written_as=rule.topic)
