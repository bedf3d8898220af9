"""``manage.py topicrules``: the rules of who may subscribe and publish, and what they decide."""

from collections.abc import Iterator
from json import dumps
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from dwsps_channels.management.subcommands import AddSubcommand, CommandWithSubcommands
from dwsps_channels.management.table import table
from dwsps_channels.models import TopicRule
from dwsps_channels.models.topic_rule import NEEDS_AUTH, in_tree_order
from dwsps_channels.protocol.errors import InvalidTopic
from dwsps_channels.protocol.text import printable
from dwsps_channels.rules.explanation import (
    Explanation,
    UnknownUser,
    explain,
    find_user,
    policy_problem,
)
from dwsps_channels.rules.loading import load_rules

NO_RULES = (
    "no topic rules yet, so they allow nobody anything. Add one in the admin, under 'Topic rules'"
)

VISITOR = "-"

EPILOG = """\
examples:
  manage.py topicrules list
  manage.py topicrules list --json
  manage.py topicrules test ada news.uk
  manage.py topicrules test - news.uk --may subscribe

The exit status is 0 on success, 1 if the user may not do what --may names, and 2 if
the command line is wrong, the user is unknown or the topic is invalid.
"""


class Command(CommandWithSubcommands):
    # Broken into lines by hand, as the formatter keeps the lines of the examples.
    help = (
        "Look at the topic rules, which are written in the admin, and at what they decide.\n"
        "They have an effect if DWSPS['POLICY'] is 'dwsps_channels.policies.TopicRules'."
    )

    epilog = EPILOG

    def add_subcommands(self, add: AddSubcommand) -> None:
        listing = add("list", self.list, "list all rules, each topic followed by its sub-topics")
        listing.add_argument("--json", action="store_true", help="print a JSON array of objects")
        test = add("test", self.test, "say what a user may do with a topic, and which rule decides")
        test.add_argument(
            "user",
            metavar="USER",
            help=f"the user's name, '{VISITOR}' for a visitor who is not logged in",
        )
        test.add_argument("topic", metavar="TOPIC")
        test.add_argument(
            "--may",
            choices=("subscribe", "publish"),
            help="end with status 1 if the user may not do this",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if TopicRule._meta.abstract:
            raise CommandError(NEEDS_AUTH)
        super().handle(*args, **options)

    def list(self, *, json: bool, **options: Any) -> None:
        rules = in_tree_order(TopicRule.objects.select_related("subscribe_group", "publish_group"))
        if json:
            self.stdout.write(dumps([_described(rule) for rule in rules], indent=2))
            return
        self._warn()
        if not rules:
            self.stderr.write(NO_RULES)
            return
        for line in table([*_rows(rules)]):
            self.stdout.write(line)
        load_rules()  # warns in the log of rules that have no effect

    def test(self, *, user: str, topic: str, may: str | None, **options: Any) -> None:
        try:
            found = explain(None if user == VISITOR else find_user(user), topic)
        except (UnknownUser, InvalidTopic) as error:
            raise CommandError(printable(str(error)), returncode=2) from None
        self._warn()
        who = "a visitor who is not logged in" if user == VISITOR else printable(user)
        for each in (found.subscribing, found.publishing):
            self.stdout.write(_sentence(who, topic, each))
            for exception in each.exceptions:
                self.stdout.write(f"  without {printable(exception)}")
        if not TopicRule.objects.exists():
            self.stderr.write(NO_RULES)
        asked = found.publishing if may == "publish" else found.subscribing
        if may is not None and not asked.is_allowed:
            raise CommandError(f"{who} may not {may} to {printable(topic)}")

    def _warn(self) -> None:
        try:
            problem = policy_problem()
        except ImproperlyConfigured as error:
            problem = str(error)
        if problem:
            self.stderr.write(problem)


def _sentence(who: str, topic: str, found: Explanation) -> str:
    may = "may" if found.is_allowed else "may not"
    return f"{who} {may} {found.action} to {printable(topic)}: {printable(found.reason)}"


def _rows(rules: list[TopicRule]) -> Iterator[tuple[str, ...]]:
    yield ("TOPIC", "SUBSCRIBE", "PUBLISH")
    for row in rules:
        rule = row.as_rule()
        yield (printable(str(row)), printable(str(rule.subscribe)), printable(str(rule.publish)))


def _described(row: TopicRule) -> dict[str, Any]:
    return {"topic": row.topic} | {
        action: {"who": requirement.who}
        | ({"permission": requirement.permission} if requirement.permission else {})
        | ({"group": requirement.group_name} if requirement.group is not None else {})
        for action, requirement in (
            ("subscribe", row.as_rule().subscribe),
            ("publish", row.as_rule().publish),
        )
    }
