"""The replay of a node for Django code: read on its event loop, decoded in the caller's thread."""

import sys

from msgspec import Struct

from dwsps_channels.client.messages import decode
from dwsps_channels.core.node import Node
from dwsps_channels.core.replay import Replay
from dwsps_channels.reading.messages import History, HistoryQuery, from_deliveries


class Excerpt(Struct, frozen=True):
    """A piece of the log, still encoded."""

    replay: Replay
    cursor: str
    recovered: bool

    def history(self) -> History:
        """Return what is in it."""
        messages = from_deliveries(decode(frame.data) for frame in self.replay.encode())
        return History(messages, self.cursor, self.recovered)


def excerpt(node: Node, query: HistoryQuery) -> Excerpt:
    """Take what ``query`` asks for from a node that has a log."""
    topic = query.topic
    if query.since is None:
        replay = node.replay_last(topic, sys.maxsize if query.last is None else query.last)
        return Excerpt(replay, node.cursor, recovered=True)
    replay = node.replay([topic], query.since)
    return Excerpt(replay, node.cursor, recovered=topic in replay.recovered)
