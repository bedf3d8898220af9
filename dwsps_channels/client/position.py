"""The place in a server's log up to which a client has everything."""

import re
from collections.abc import Callable
from typing import Final, NamedTuple

# An epoch has no colon; more digits than that no offset needs.
_CURSOR: Final = re.compile(r"([A-Za-z0-9_-]{1,32}):([0-9]{1,19})")


class Cursor(NamedTuple):
    """A place in a log: everything up to the offset, in the life of the log that the epoch names."""

    epoch: str
    offset: int

    @classmethod
    def parse(cls, text: object) -> "Cursor | None":
        """Return the cursor that a text is; ``None`` if it is none."""
        match = _CURSOR.fullmatch(text) if isinstance(text, str) else None
        return None if match is None else cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"


class Position:
    """Follows the log from what a connection brings: the cursors that the server sends, and deliveries.

    While anything is still to be recovered the cursor is held: if the connection breaks then, the next recovery has to
    start from the same place.
    """

    def __init__(self, is_subscribed: Callable[[str], bool]) -> None:
        self._is_subscribed = is_subscribed
        self.epoch = ""
        """The epoch of the offsets that come in; empty: not known, or the server has no log."""
        self._offset = 0
        # Of the delivery at that offset. Empty: the server said that everything up to there was sent.
        self._context = ""
        self._held = False
        self._start: Cursor | None = None  # while it is held

    @property
    def latest(self) -> Cursor | None:
        """The newest place that is known of, whatever was missed before; ``None``: the server has no log."""
        return Cursor(self.epoch, self._offset) if self.epoch else None

    @property
    def cursor(self) -> Cursor | None:
        """The place up to which nothing is missing; ``None``: not known."""
        if self._held:
            return self._start
        if not self.epoch:
            return None
        # A message comes once for each subscription that matches, the deepest first.
        topic, dot, _ = self._context.rpartition(".")
        while dot:
            if self._is_subscribed(topic):
                return Cursor(self.epoch, self._offset - 1)
            topic, dot, _ = topic.rpartition(".")
        return Cursor(self.epoch, self._offset)

    def learn(self, cursor: Cursor) -> bool:
        """Take a cursor that the server sent; return whether its epoch is new."""
        if cursor.epoch == self.epoch:
            if cursor.offset >= self._offset:
                self._offset, self._context = cursor.offset, ""
            return False
        self.epoch, self._offset = cursor
        self._context = ""
        return True

    def deliver(self, offset: int, context: str) -> None:
        """Note that a message came."""
        if offset > self._offset or (offset == self._offset and self._context):
            self._offset, self._context = offset, context

    def forget(self) -> None:
        """Note that the server has no log."""
        self.epoch, self._offset, self._context, self._start = "", 0, "", None

    def hold(self) -> None:
        """Keep the cursor where it is: something is to be recovered from there."""
        self._start, self._held = self.cursor, True

    def release(self) -> None:
        """Note that all is recovered, or was given up."""
        self._start, self._held = None, False

    def disconnect(self) -> bool:
        """Note that the connection is gone; return whether the epoch is another one now."""
        if not self._held:
            return False
        start, epoch = self._start, self.epoch
        self.forget()
        self.release()
        if start is not None:
            self.learn(start)
        return self.epoch != epoch
