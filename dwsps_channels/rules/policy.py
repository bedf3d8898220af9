"""The policy that decides by topic rules."""

from asyncio import Task, ensure_future, shield
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, ClassVar
from weakref import WeakSet

from msgspec import Struct
from msgspec.structs import replace

from dwsps_channels.core.identity import Identity
from dwsps_channels.core.policy import Answer, nonblocking
from dwsps_channels.core.reader import ANONYMOUS, Reader
from dwsps_channels.core.rule import RightsUnknown
from dwsps_channels.core.rule_set import ReaderRules, RuleSet, Verdict
from dwsps_channels.lazy import is_loaded
from dwsps_channels.rules.batching import RightsReader
from dwsps_channels.rules.loading import load_rules, reader_of
from dwsps_channels.threads.pools import ask

Question = Callable[[ReaderRules, str], Verdict]

SUBSCRIBE: Question = ReaderRules.may_subscribe
PUBLISH: Question = ReaderRules.may_publish

# Where a user object keeps its rules: they live as long as the connection's user, and are not those of the next one.
_KEPT = "_dwsps_rules"


# So many users may have changed before the rights of all are read again.
MAX_CHANGED = 10_000


class _Loaded(Struct, frozen=True):
    """Rules for one user, and the time when they were read, as a count of changes."""

    version: int
    user: str
    """The primary key."""
    rules: ReaderRules


class TopicRules:
    """Decides by the rules in the database, which are written in the admin. Without rules nobody may do anything.

    The rules are read once a process, and a user's rights once a connection, until something changes: see ``forget``. A
    decision that needs neither is made on the event loop.
    """

    needs_user = True
    """Have ``manage.py check`` warn if no middleware on the websocket routes looks up users."""

    in_use: ClassVar["WeakSet[TopicRules]"] = WeakSet()
    """The instances of this process: a policy of the project may have one, and asks it."""

    def __init__(self) -> None:
        self.in_use.add(self)
        # Grows with each change.
        self._version = 0
        # The last change that concerned everybody, and those since then that concerned one user.
        self._changed = 0
        self._changed_users: dict[str, int] = {}
        self._rules: RuleSet | None = None
        self._loading: Task[RuleSet] | None = None
        self._anonymous: ReaderRules | None = None
        self._rights = RightsReader()

    @nonblocking
    def may_subscribe(self, identity: Identity, topic: str) -> Answer | Awaitable[Answer]:
        return self._decide(SUBSCRIBE, identity, topic)

    @nonblocking
    def may_publish(self, identity: Identity, topic: str) -> Answer | Awaitable[Answer]:
        return self._decide(PUBLISH, identity, topic)

    def forget(self, user: str = "") -> None:
        """Have what was read from the database read again before the next decision: it may have changed.

        Args:
            user: only the rights of the user with this primary key; empty: all rules and rights.
        """
        self._version += 1
        if user and len(self._changed_users) < MAX_CHANGED:
            self._changed_users[user] = self._version
            return
        self._changed = self._version
        self._changed_users.clear()
        self.forget_rules()

    def forget_rules(self) -> None:
        """Have the rules read again before the next decision, and rights only if the new rules ask for others."""
        self._rules = self._loading = self._anonymous = None

    def _decide(
        self, question: Question, identity: Identity, topic: str
    ) -> Answer | Awaitable[Answer]:
        if (rules := self._rules_of(identity.user)) is not None:
            try:
                return question(rules, topic).answer
            except RightsUnknown:
                pass
        return self._decide_later(question, identity.user, topic)

    async def _decide_later(self, question: Question, user: Any, topic: str) -> Answer:
        version = self._version
        rules = await self._load_rules()
        if rules is self._rules and (known := self._rules_of(user)) is not None:
            try:
                return question(known, topic).answer
            except RightsUnknown:
                pass
        reader = await self._rights.read(user, rules)
        return question(self._loaded(user, version, rules, reader).rules, topic).answer

    def _rules_of(self, user: Any) -> ReaderRules | None:
        """Return the rules for this user, if that takes no query; ``None``: it does."""
        rules = self._rules
        if rules is None or not is_loaded(user):
            return None
        if not getattr(user, "is_authenticated", False):
            if self._anonymous is None:
                self._anonymous = ReaderRules(rules, ANONYMOUS)
            return self._anonymous
        kept: _Loaded | None = getattr(user, _KEPT, None)
        if kept is None or not self._is_current(kept):
            kept = self._loaded(user, self._version, rules, reader_of(user))
        elif kept.rules.rules is not rules:
            reader = kept.rules.reader
            if not kept.rules.rules.asks_for_all_of(rules):
                reader = replace(reader, rights=None)
            kept = self._loaded(user, kept.version, rules, reader)
        return kept.rules

    def _loaded(self, user: Any, version: int, rules: RuleSet, reader: Reader) -> _Loaded:
        loaded = _Loaded(version, reader.pk, ReaderRules(rules, reader))
        # An object of the project's may take no more attributes: its rights are read each time.
        with suppress(AttributeError):
            setattr(user, _KEPT, loaded)
        return loaded

    def _is_current(self, kept: _Loaded) -> bool:
        return kept.version >= self._changed and (
            not self._changed_users or kept.version >= self._changed_users.get(kept.user, 0)
        )

    async def _load_rules(self) -> RuleSet:
        """Read the rules, once for all who ask meanwhile."""
        if self._rules is not None:
            return self._rules
        if self._loading is None:
            self._loading = ensure_future(ask(load_rules))
        loading = self._loading
        try:
            rules = await shield(loading)
        except BaseException:
            if self._loading is loading and loading.done():
                self._loading = None
            raise
        if self._loading is loading:
            self._rules, self._loading = rules, None
        return rules
