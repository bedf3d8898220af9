"""Reading the log from a process that does not serve."""

from collections.abc import Generator
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from msgspec.structs import replace

from dwsps_channels.broker.redis.blocking import BlockingConnection
from dwsps_channels.broker.redis.hosts import Host
from dwsps_channels.broker.redis.layout import Argument, Layout
from dwsps_channels.broker.redis.loading import Search, load, load_after, load_newest
from dwsps_channels.broker.redis.sender import open_log
from dwsps_channels.core.log import Log, offset_of
from dwsps_channels.core.replay import ReplayLimits

LogT = TypeVar("LogT", Log, Log | None)


class RedisReader:
    """Reads the log of a ``RedisBroker``: see ``LogReader``. It blocks; for one caller at a time.

    It searches the log from its end backwards. ``limits``: it takes no more than that of it into memory, or little more.
    """

    def __init__(self, host: Host, layout: Layout, limits: ReplayLimits | None = None) -> None:
        self._layout = layout
        self._limits = limits or ReplayLimits()
        self._connection = BlockingConnection(host)

    def cursor(self, deadline: float) -> str:
        """Return the cursor of the log's end: see ``LogReader.cursor``."""
        self._connection.deadline = deadline
        return self._connection.once_more_if_kept(self._cursor)

    def _cursor(self) -> str:
        epoch, offset = self._connection.call("HMGET", self._layout.state, "epoch", "offset")
        if epoch is not None and offset is not None:
            return f"{epoch.decode()}:{int(offset)}"
        begun, last_offset, _ = open_log(self._connection, self._layout)
        return f"{begun}:{last_offset}"

    def load(
        self, topic: str, deadline: float, *, since: str | None = None, last: int | None = None
    ) -> Log:
        """Read what is kept below ``topic``: see ``LogReader.load``."""
        self._connection.deadline = deadline
        return self._connection.once_more_if_kept(partial(self._load, topic, since, last))

    def _load(self, topic: str, since: str | None, last: int | None) -> Log:
        layout = self._layout
        epoch, offset, newest = open_log(self._connection, layout)
        if last == 0:
            return Log(epoch, offset, offset)
        log = layout, epoch, offset, newest
        # The newest part of the log, as a process that serves has it.
        search = Search(layout.tail, topic, limits=self._limits)
        # What is asked for may be further back. That is looked for until half of the time is over: in a log with many
        # messages of other topics it may take long, and a part is better than nothing.
        half = (monotonic() + self._connection.deadline) / 2
        further = replace(search, bounds=layout.bounds, is_late=lambda: monotonic() > half)
        part = None
        if since is not None:
            after = offset_of(since, epoch)
            if after is None or after > offset:
                return Log(epoch, offset, offset)  # no cursor of this log
            part = self._hold(load_after(*log, replace(further, after=after)))
        elif last is not None:
            limits = replace(self._limits, messages=min(last, self._limits.messages))
            part = self._hold(load_newest(*log, replace(further, limits=limits)))
        if part is not None:
            return part
        return self._hold(load(*log, search, root=layout.root_that_has_all(topic)))

    def _hold(self, conversation: Generator[tuple[Argument, ...], Any, LogT]) -> LogT:
        """Send the commands of a conversation, each once the one before was answered; return its result."""
        reply: Any = None
        while True:
            try:
                command = conversation.send(reply)
            except StopIteration as done:
                result: LogT = done.value
                return result
            reply = self._connection.call(*command)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
