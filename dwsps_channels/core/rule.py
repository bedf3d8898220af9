"""A rule: who may subscribe and publish to a topic and below it."""

from collections.abc import Hashable
from enum import StrEnum
from typing import Final

from msgspec import Struct

from dwsps_channels.core.reader import Reader, Rights
from dwsps_channels.protocol.errors import InvalidTopic
from dwsps_channels.protocol.topics import check

PLACEHOLDERS: Final = ("{pk}", "{username}")
"""Levels of a rule's topic that stand for the reader's own primary key and name."""


class Who(StrEnum):
    """The users that a rule allows something."""

    EVERYBODY = "everybody"
    AUTHENTICATED = "authenticated"
    STAFF = "staff"
    PERMISSION = "permission"
    GROUP = "group"
    NOBODY = "nobody"


class RightsUnknown(Exception):
    """The answer depends on rights of the reader that are not loaded yet."""


class Requirement(Struct, frozen=True):
    """A requirement on the reader."""

    who: Who
    permission: str = ""
    """``app_label.codename``, for ``Who.PERMISSION``."""
    group: Hashable = None
    """The group's primary key, for ``Who.GROUP``."""
    group_name: str = ""

    def is_met_by(self, reader: Reader) -> bool:
        """Return whether the reader meets it.

        Raises:
            RightsUnknown: that depends on ``reader.rights``, which are not loaded.
        """
        match self.who:
            case Who.EVERYBODY:
                return True
            case Who.NOBODY:
                return False
        if not reader.is_authenticated or self.who is Who.AUTHENTICATED:
            return reader.is_authenticated
        if reader.rights is None:
            raise RightsUnknown
        return self._is_met_by(reader.rights)

    def _is_met_by(self, rights: Rights) -> bool:
        match self.who:
            case Who.STAFF:
                return rights.is_staff
            case Who.PERMISSION:
                return self.permission in rights.permissions
            case _:
                return self.group in rights.groups

    def __str__(self) -> str:
        match self.who:
            case Who.AUTHENTICATED:
                return "logged-in users"
            case Who.PERMISSION:
                return f"permission '{self.permission}'"
            case Who.GROUP if self.group_name:
                return f"group '{self.group_name}'"
            case Who.GROUP:
                return "a group that does not exist"
        return str(self.who.value)


NOBODY: Final = Requirement(Who.NOBODY)


class Rule(Struct, frozen=True):
    """A rule for a topic and all below it, unless a deeper rule decides."""

    topic: str
    """Empty: the root rule, for every topic."""
    subscribe: Requirement
    publish: Requirement
    written_as: str = ""
    """The topic with its placeholder, if this is such a rule as it is for one reader, or is implied by one."""
    is_implied: bool = False
    """True if nobody wrote it: it closes the topics of other readers beside those of a placeholder."""

    @property
    def name(self) -> str:
        """The topic as people read it."""
        return self.written_as or self.topic


class InvalidRuleTopic(Exception):
    """A rule cannot be for this topic; the text says why."""


def placeholder_in(topic: str) -> str | None:
    """Return the placeholder in a rule's topic."""
    return next((each for each in PLACEHOLDERS if f".{each}." in f"{topic}."), None)


def parent_of_own(topic: str) -> str:
    """Return the topic above the placeholder in a rule's topic: ``users`` of ``users.{pk}.inbox``."""
    return topic.partition(".{")[0]


def check_rule_topic(topic: str) -> None:
    """Check that a rule may be for this topic: empty, a valid topic, or one with a placeholder.

    Raises:
        InvalidRuleTopic: it may not.
    """
    if not topic:
        return
    try:
        check(topic)
    except InvalidTopic as error:
        raise InvalidRuleTopic(error.problem) from error
    levels = topic.split(".")
    for level in levels:
        if ("{" in level or "}" in level) and level not in PLACEHOLDERS:
            raise InvalidRuleTopic(
                f"'{level}' is not known: a level is {' or '.join(PLACEHOLDERS)}, or has no braces"
            )
    if levels[0] in PLACEHOLDERS:
        raise InvalidRuleTopic(
            f"begins with {levels[0]}: a user's name would become a root; write 'users.{levels[0]}'"
        )
    if sum(level in PLACEHOLDERS for level in levels) > 1:
        raise InvalidRuleTopic("has more than one placeholder")
