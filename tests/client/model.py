"""A server with a log, in memory and obviously right, for clients that run one step at a time."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from dwsps_channels.client import ConnectionClosed
from tests.client.scripted import NOW, Frame


@dataclass(frozen=True)
class Entry:
    """A publication. ``number`` counts them over all epochs; it is the message, too."""

    epoch: int
    offset: int
    topic: str
    number: int


def contexts(topic: str) -> list[str]:
    """The topics whose subscriptions match, deepest first."""
    levels = topic.split(".")
    return [".".join(levels[:depth]) for depth in range(len(levels), 0, -1)]


class Connection:
    """A connection as a client sees it. Frames move when the server is told to move them."""

    latency = None

    def __init__(self) -> None:
        self.topics: set[str] = set()
        self.to_server: deque[Frame] = deque()
        self.to_client: deque[Frame] = deque()
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.broken = ""
        """Says why it is."""

    async def send(self, data: bytes) -> None:
        if self.broken:
            raise ConnectionClosed(1006, self.broken)
        self.to_server.append(json.loads(data))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (data := await self._arrived.get()) is not None:
            yield data
        raise ConnectionClosed(1006, self.broken)

    def arrive(self) -> None:
        self._arrived.put_nowait(json.dumps(self.to_client.popleft()).encode())

    def abort(self, reason: str) -> None:
        self.broken = reason
        self._arrived.put_nowait(None)


@dataclass
class Model:
    """The server: its log, what of it is kept, and at most one connection."""

    epoch: int = 1
    published: list[Entry] = field(default_factory=list)
    """Over all epochs."""
    kept: list[Entry] = field(default_factory=list)
    evicted: list[Entry] = field(default_factory=list)
    """Of this epoch."""
    keys: dict[str, int] = field(default_factory=dict)
    end: int = 0
    has_log: bool = True
    knows_resume: bool = True
    """Otherwise it does not answer one, as a server does that sends no errors."""
    connection: Connection | None = None

    def __post_init__(self) -> None:
        self.may_connect = asyncio.Event()

    @property
    def cursor(self) -> str:
        return f"e{self.epoch}:{self.end}"

    @asynccontextmanager
    async def open(self, *, token: str | None) -> AsyncIterator[Connection]:
        await self.may_connect.wait()
        self.may_connect.clear()
        self.connection = Connection()
        yield self.connection

    def count(self, cursor: str) -> int:
        """How many publications a client with this cursor has."""
        epoch, _, offset = cursor[1:].partition(":")
        place = (int(epoch), int(offset))
        return sum((each.epoch, each.offset) <= place for each in self.published)

    # What happens to it

    def publish(self, topic: str) -> Entry:
        self.end += 1
        entry = Entry(self.epoch, self.end, topic, len(self.published))
        self.published.append(entry)
        self.kept.append(entry)
        if self.connection is not None:
            for context in contexts(topic):
                if context in self.connection.topics:
                    self._deliver(entry, context)
        return entry

    def evict(self, count: int) -> None:
        self.evicted += self.kept[:count]
        del self.kept[:count]

    def begin_epoch(self) -> None:
        """Continuity is lost; a client that is connected is told."""
        self.epoch += 1
        self.end = 0
        self.kept, self.evicted, self.keys = [], [], {}
        if self.connection is not None and self.has_log:
            self._send({"type": "reset", "cursor": self.cursor})

    def end_subscription(self, topic: str) -> None:
        """Take a right away. The reason says how many publications came before."""
        if self.connection is not None and topic in self.connection.topics:
            self.connection.topics.discard(topic)
            reason = str(len(self.published))
            self._send(
                {"type": "unsubscribed", "topic": topic, "code": "forbidden", "reason": reason}
            )

    def break_connection(self) -> None:
        if self.connection is not None:
            self.connection.abort("broken")
            self.connection = None

    def handle(self) -> None:
        """Take the next frame of the client."""
        assert self.connection is not None
        frame = self.connection.to_server.popleft()
        if frame["type"] == "resume" and not self.knows_resume:
            return
        answer = {"type": "ack", "action": frame["type"], "id": frame["id"]}
        if "topic" in frame:
            answer["topic"] = frame["topic"]
        answer |= getattr(self, f"_{frame['type']}")(frame)
        if self.has_log and frame["type"] != "publish":
            answer["cursor"] = self.cursor
        self._send(answer)

    def _subscribe(self, frame: Frame) -> Frame:
        assert self.connection is not None
        topic = frame["topic"]
        self.connection.topics.add(topic)
        if "since" in frame:
            is_complete = self._is_complete(topic, frame["since"])
            if is_complete:
                self._replay({topic}, frame["since"])
            return {"recovered": is_complete}
        if self.has_log and (last := frame["last"]):
            for entry in [each for each in self.kept if topic in contexts(each.topic)][-last:]:
                self._deliver(entry, topic)
        return {}

    def _resume(self, frame: Frame) -> Frame:
        assert self.connection is not None
        self.connection.topics.update(frame["topics"])
        since = frame["since"]
        complete = {topic for topic in frame["topics"] if self._is_complete(topic, since)}
        self._replay(complete, since)
        return {"topics": {topic: {"recovered": topic in complete} for topic in frame["topics"]}}

    def _unsubscribe(self, frame: Frame) -> Frame:
        assert self.connection is not None
        self.connection.topics.discard(frame["topic"])
        return {}

    def _publish(self, frame: Frame) -> Frame:
        key = frame["key"]
        if not self.has_log:
            self.publish(frame["topic"])
            return {}
        if key not in self.keys:
            self.keys[key] = self.publish(frame["topic"]).offset
        return {"offset": self.keys[key]}

    def _is_complete(self, topic: str, since: str) -> bool:
        epoch, _, offset = since.rpartition(":")
        if not self.has_log or epoch != f"e{self.epoch}" or int(offset) > self.end:
            return False
        return not any(
            each.offset > int(offset) and topic in contexts(each.topic) for each in self.evicted
        )

    def _replay(self, topics: set[str], since: str) -> None:
        offset = int(since.rpartition(":")[2])
        for entry in self.kept:
            for context in contexts(entry.topic):
                if entry.offset > offset and context in topics:
                    self._deliver(entry, context)

    def _deliver(self, entry: Entry, context: str) -> None:
        frame: dict[str, Any] = {"type": "publish", "topic": entry.topic, "context": context}
        frame["message"] = entry.number
        if self.has_log:
            frame["offset"] = entry.offset
        self._send(frame)

    def _send(self, frame: Frame) -> None:
        assert self.connection is not None
        self.connection.to_client.append({"timestamp": NOW, **frame})
