"""The log of tests: what they have published."""

from collections.abc import Sequence

from dwsps_channels.capturing import Published
from dwsps_channels.reading.messages import History, HistoryMessage, HistoryQuery

EPOCH = "outbox"


class CapturedLog:
    """The messages of a list, each with its place in it as its offset, from 1 on. See ``ReadableLog``."""

    def __init__(self, published: Sequence[Published]) -> None:
        self._published = published

    def cursor(self, timeout: float) -> str:
        """See ``ReadableLog.cursor``."""
        return f"{EPOCH}:{len(self._published)}"

    async def acursor(self, timeout: float) -> str:
        """See ``ReadableLog.acursor``."""
        return self.cursor(timeout)

    def read(self, query: HistoryQuery, timeout: float) -> History:
        """See ``ReadableLog.read``."""
        cursor = self.cursor(timeout)
        after = 0 if query.since is None else self._offset_of(query.since)
        if after is None:
            return History([], cursor, recovered=False)
        messages = [
            HistoryMessage(each.topic, each.message, each.timestamp, offset)
            for offset, each in enumerate(self._published, 1)
            if offset > after and f"{each.topic}.".startswith(f"{query.topic}.")
        ]
        if query.last is not None:
            messages = messages[max(0, len(messages) - query.last) :]
        return History(messages, cursor)

    async def aread(self, query: HistoryQuery, timeout: float) -> History:
        """See ``ReadableLog.aread``."""
        return self.read(query, timeout)

    def _offset_of(self, cursor: str) -> int | None:
        epoch, _, offset = cursor.partition(":")
        if epoch != EPOCH or not offset.isdecimal() or int(offset) > len(self._published):
            return None
        return int(offset)
