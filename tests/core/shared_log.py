"""A log that several nodes share, without I/O, and processes that read it when a test says so."""

import json
from collections.abc import Callable, Generator
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from dwsps_channels.core.broker import Repeated
from dwsps_channels.core.log import Log
from dwsps_channels.core.node import Node
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.replay import ReplayLimits
from dwsps_channels.core.retention import Retention
from dwsps_channels.core.sessions import Sessions
from dwsps_channels.core.tail import Tail
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.protocol.topics import contexts
from tests.core.recording import RecordingBroker

Place = tuple[str, int]
"""Epoch and offset."""


def place_of(cursor: str) -> Place:
    epoch, _, offset = cursor.partition(":")
    return epoch, int(offset)


class SharedLog:
    """All epochs of the log, whole; the nodes are given the newest few."""

    def __init__(self) -> None:
        self.number = 0
        self.runs = 0
        """The processes that there were."""
        self.epochs: dict[str, list[Publication]] = {}
        """The publications of each epoch; the offset of the first is 1."""
        self.appended: list[Publication] = []
        """All publications over all epochs. The timestamp of each is its place here."""
        self.keys: dict[str, int] = {}
        """By key the offset of a publication, in this epoch."""
        self.renew(0)

    def renew(self, kept: int) -> None:
        """Begin another epoch, with the first ``kept`` publications of the one before."""
        publications = self.publications[:kept] if self.epochs else []
        self.keys = {key: offset for key, offset in self.keys.items() if offset <= kept}
        self.epoch = f"epoch-{len(self.epochs)}"
        self.epochs[self.epoch] = publications

    @property
    def publications(self) -> list[Publication]:
        return self.epochs[self.epoch]

    def next_number(self) -> int:
        self.number += 1
        return self.number

    def publish(self, topic: str) -> None:
        """Publish a number, as a process elsewhere."""
        number = self.next_number()
        message = Raw(json.dumps(number).encode())
        self.append(Publication(topic, message, "", "elsewhere", number))

    def append(self, publication: Publication) -> int:
        """Append a publication; return its offset."""
        publication = replace(publication, timestamp=str(len(self.appended)))
        self.appended.append(publication)
        self.publications.append(publication)
        return len(self.publications)

    def kept(self, count: int) -> Log:
        end = len(self.publications)
        floor = max(0, end - count)
        held = [(offset, self.publications[offset - 1]) for offset in range(floor + 1, end + 1)]
        return Log(self.epoch, end, floor, held)

    def expected(self, topic: str, after: Place) -> list[tuple[str, int]]:
        """Return what was published at and below ``topic``: the topic and the number of each message."""
        epoch, offset = after
        return [
            (each.topic, json.loads(bytes(each.message)))
            for each in self.epochs[epoch][offset:]
            if topic in contexts(each.topic)
        ]


class Outcome:
    """A publish that waits for its process to have read it from the log."""

    def __init__(self, read: Callable[[], None]) -> None:
        self.read = read
        """Lets its process read some more: awaited, it does that."""
        self.callbacks: list[Callable[[Any], object]] = []
        self.offset: int | None = None
        self.error: Unavailable | None = None

    def add_done_callback(self, callback: Callable[[Any], object], /) -> None:
        self.callbacks.append(callback)

    def done(self) -> bool:
        return self.offset is not None or self.error is not None

    def cancelled(self) -> bool:
        return False

    def exception(self) -> BaseException | None:
        return self.error

    def result(self) -> Any:
        return self.offset

    def __await__(self) -> Generator[Any, None, Any]:
        while not self.done():
            self.read()
        yield from ()
        return self.offset

    def set_result(self, offset: int) -> None:
        self.offset = offset
        self._tell()

    def set_exception(self, error: Unavailable) -> None:
        self.error = error
        self._tell()

    def _tell(self) -> None:
        for callback in self.callbacks:
            callback(self)


class LogBroker(RecordingBroker):
    """Appends to the log, and answers when its process has read that, as ``RedisBroker`` does."""

    def __init__(self, log: SharedLog, read: Callable[[], None]) -> None:
        super().__init__()
        self.log = log
        self.read = read
        self.place: Place = ("", 0)
        """The last publication that its process has read."""
        self.waiting: list[tuple[Place, Any]] = []
        """The outcomes, each with the place that it waits for."""

    def make_outcome(self) -> Any:
        return Outcome(self.read)

    def publish(self, publication: Publication, key: str = "") -> Any:
        log, outcome = self.log, self.make_outcome()
        offset = log.keys.get(key, 0)
        if offset:
            offset = Repeated(offset)
        else:
            offset = log.append(publication)
            if key:
                log.keys[key] = offset
        self.waiting.append(((log.epoch, offset), outcome))
        self.has_read(self.place)
        return outcome

    def has_read(self, place: Place) -> None:
        self.place = epoch, read = place
        waiting, self.waiting = self.waiting, []
        for (its_epoch, offset), outcome in waiting:
            if its_epoch == epoch and offset <= read:
                outcome.set_result(offset)
            else:
                self.waiting.append(((its_epoch, offset), outcome))

    def has_begun(self, place: Place) -> None:
        waiting, self.waiting, self.place = self.waiting, [], place
        for _, outcome in waiting:
            outcome.set_exception(Unavailable("it is not known if it was published"))


class Server:
    """A process: its node reads the log when the test says so."""

    def __init__(self, log: SharedLog, kept: int, resumed: int) -> None:
        self.log = log
        self.kept = kept
        self.resumed = resumed
        self.start()

    def start(self) -> None:
        self.sessions = Sessions()
        self.log.runs += 1
        self.broker = self.make_broker()
        self.node = Node(
            f"run-{self.log.runs}",
            self.broker,
            tail=Tail(Retention(messages=self.kept), {"e": Retention(messages=3)}),
            replay_limits=ReplayLimits(messages=self.resumed),
            on_reset=lambda: self.sessions.reset(self.node.cursor),
        )
        self.begin()

    def make_broker(self) -> LogBroker:
        return LogBroker(self.log, lambda: self.read(1))

    def begin(self) -> None:
        self.read_to = self.log.epoch, len(self.log.publications)
        self.node.begin(self.log.kept(self.kept))
        self.broker.has_begun(self.read_to)

    def read(self, count: int) -> None:
        epoch, offset = self.read_to
        if epoch != self.log.epoch:
            self.begin()
            return
        for publication in self.log.publications[offset : offset + count]:
            offset += 1
            self.node.receive(publication, offset)
            self.broker.has_read((epoch, offset))
        self.read_to = epoch, offset
