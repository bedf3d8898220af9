"""The outbox of tests: published messages are kept for assertions, and not sent."""

import os
import sys
from collections import UserList
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

from django.core import mail


class _Published(NamedTuple):
    topic: str
    message: Any


class Published(_Published):
    """The arguments of one ``publish`` or ``apublish``. It equals the tuple ``(topic, message)``.

    ``message`` is as a subscriber would read it: a ``Decimal``, for instance, is a string.
    """

    key: str
    """The ``key`` that was given; empty: none was."""
    timestamp: str
    """When it was published: RFC 3339, UTC."""
    durable: bool
    """True if it was published with ``durable=True``."""

    def __new__(
        cls,
        topic: str,
        message: Any,
        *,
        key: str = "",
        timestamp: str = "",
        durable: bool = False,
    ) -> Self:
        """Make one as ``publish`` would."""
        self = super().__new__(cls, topic, message)
        self.key, self.timestamp, self.durable = key, timestamp, durable
        return self


class Outbox(UserList[Published]):
    """The list of messages that the running test has published. It is empty again when the next test begins."""

    def __init__(self) -> None:
        self._test = ""
        self._mails: object = None
        self._published: list[Published] = []
        super().__init__()

    @property
    def data(self) -> list[Published]:
        """The list that ``UserList`` reads and writes."""
        # Both test runners tell which test runs, each in its own way: pytest names it, Django's TestCase begins
        # another outbox for mail.
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
        mails = getattr(mail, "outbox", None)
        if test != self._test or mails is not self._mails:
            self._test, self._mails = test, mails
            self._published = []
        return self._published

    @data.setter
    def data(self, value: list[Published]) -> None:
        self._published = value


outbox = Outbox()
"""The messages that the running test has published, like ``django.core.mail.outbox``."""

# What the test asks for, the innermost last: a list to append to; ``None``: to send.
_asked: list[list[Published] | None] = []


def is_under_test() -> bool:
    """Return whether Django's test environment is set up: by its test runner, or by pytest-django."""
    # It has no public name; that mail goes to an outbox is no sign, as that may be a project's own setting. Not
    # imported for this: if nobody has imported it, no test is running.
    utils = sys.modules.get("django.test.utils")
    return utils is not None and hasattr(utils._TestState, "saved_data")


def capture(*, serving: bool) -> MutableSequence[Published] | None:
    """Return the list that takes the place of the server now, if one does. ``serving``: this process is a server."""
    if _asked:
        return _asked[-1]
    return outbox if is_under_test() and not serving else None


@contextmanager
def capture_publishes() -> Iterator[list[Published]]:
    """Have ``publish`` and ``apublish`` append to the list that this yields, and send nothing. ``history`` reads it.

    No server needs to run, and none gets the messages, not even this process. Everything else is as usual: bad topics
    and messages raise, and inside a transaction nothing is appended before the commit. (Django's ``TestCase`` never
    commits: see its ``captureOnCommitCallbacks``.) Both return a result with ``reached`` 0, or ``None`` if they wait
    for the commit.
    """
    published: list[Published] = []
    _asked.append(published)
    try:
        yield published
    finally:
        _asked.pop()


@contextmanager
def real_publishes() -> Iterator[None]:
    """Have ``publish`` and ``apublish`` send within a test, and ``history`` read, as they do outside tests.

    First set ``SERVER_URL`` or ``CHANNEL_LAYERS`` to a server that the test has started: messages reach any server
    there.
    """
    _asked.append(None)
    try:
        yield
    finally:
        _asked.pop()
