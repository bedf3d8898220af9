"""The log of a server, read from the broker that its processes share."""

from dwsps_channels.broker.backends import BrokerBackend, LogReader
from dwsps_channels.broker.memory import MemoryBroker
from dwsps_channels.conf import conf
from dwsps_channels.core.node import Node
from dwsps_channels.core.tail import Tail
from dwsps_channels.reading.excerpt import excerpt
from dwsps_channels.reading.messages import History, HistoryQuery


class BrokerLog:
    """Reads with a reader of the broker: see ``LogConnection``."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader

    def cursor(self, deadline: float) -> str:
        """See ``LogConnection.cursor``."""
        return self._reader.cursor(deadline)

    def read(self, query: HistoryQuery, deadline: float) -> History:
        """See ``LogConnection.read``. A node takes over what is loaded, as in a process that serves."""
        tail = Tail(conf.log_retention, conf.history)
        node = Node("", MemoryBroker(), tail=tail, replay_limits=conf.replay_limits)
        node.begin(self._reader.load(query.topic, deadline, since=query.since, last=query.last))
        return excerpt(node, query).history()

    def close(self) -> None:
        """See ``LogConnection.close``."""
        self._reader.close()


class NoLogAtAll:
    """The answer of a broker that has no reader: see ``LogConnection``."""

    def cursor(self, deadline: float) -> str:
        """See ``LogConnection.cursor``."""
        return ""

    def read(self, query: HistoryQuery, deadline: float) -> None:
        """See ``LogConnection.read``."""

    def close(self) -> None:
        """See ``LogConnection.close``."""


def connect(backend: BrokerBackend) -> BrokerLog | NoLogAtAll:
    """Make a connection to the log of ``backend``."""
    reader = backend.make_reader()
    return NoLogAtAll() if reader is None else BrokerLog(reader)
