"""Reading the log from a process that does not serve."""

from typing import Any

from dwsps_channels.broker.redis.blocking import BlockingConnection
from dwsps_channels.broker.redis.hosts import Host
from dwsps_channels.broker.redis.layout import Layout
from dwsps_channels.broker.redis.loading import load
from dwsps_channels.broker.redis.sender import open_log
from dwsps_channels.core.log import Log


class RedisReader:
    """Reads the log of a ``RedisBroker``: see ``LogReader``. It blocks; for one caller at a time."""

    def __init__(self, host: Host, layout: Layout) -> None:
        self._layout = layout
        self._connection = BlockingConnection(host)

    def cursor(self, deadline: float) -> str:
        """Return the cursor of the log's end: see ``LogReader.cursor``."""
        self._connection.deadline = deadline
        epoch, offset = self._connection.call("HMGET", self._layout.state, "epoch", "offset")
        if epoch is not None and offset is not None:
            return f"{epoch.decode()}:{int(offset)}"
        begun, last_offset, _ = open_log(self._connection, self._layout)
        return f"{begun}:{last_offset}"

    def load(self, topic: str, deadline: float) -> Log:
        """Read what is kept below ``topic``: see ``LogReader.load``."""
        self._connection.deadline = deadline
        epoch, offset, last = open_log(self._connection, self._layout)
        conversation = load(
            self._layout, epoch, offset, last, root=self._layout.root_that_has_all(topic)
        )
        reply: Any = None
        while True:
            try:
                command = conversation.send(reply)
            except StopIteration as done:
                log: Log = done.value
                return log
            reply = self._connection.call(*command)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
