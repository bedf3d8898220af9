"""Publications that wait to be sent, in order, each with its publisher's answer."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from dwsps_channels.core.publication import Publication
from dwsps_channels.protocol.errors import Unavailable

# What a publication costs beside its payload and its topic: field names, the timestamp, the queue's own.
OVERHEAD: Final = 128

Outcome = asyncio.Future[int | None]
"""The answer to a publisher: the offset, if there is one."""


class Waiting(NamedTuple):
    """A publication that was not handed over yet."""

    publication: Publication
    key: str
    accepted: Outcome
    """The publisher's answer."""
    size: int


class SendQueue:
    """A queue, bounded in number and in bytes."""

    def __init__(self, max_publications: int, max_bytes: int) -> None:
        self._max_publications = max_publications
        self._max_bytes = max_bytes
        self._bytes = 0
        self._queue: deque[Waiting] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._queue)

    def enqueue(self, publication: Publication, key: str = "") -> Outcome:
        """Add ``publication``. The future fails with ``Unavailable`` if the queue is full, or if it cannot be sent."""
        size = len(memoryview(publication.message)) + len(publication.topic.encode()) + OVERHEAD
        if len(self._queue) >= self._max_publications or self._bytes + size > self._max_bytes:
            return refused("too many messages wait to be published")
        waiting = Waiting(publication, key, asyncio.get_running_loop().create_future(), size)
        self._queue.append(waiting)
        self._bytes += size
        return waiting.accepted

    def next_batch(self, max_bytes: int) -> list[Waiting]:
        """Remove the first publications: of ``max_bytes`` together, or one that is larger by itself."""
        taken: list[Waiting] = []
        room = max_bytes
        while self._queue and (not taken or self._queue[0].size <= room):
            waiting = self._queue.popleft()
            self._bytes -= waiting.size
            room -= waiting.size
            taken.append(waiting)
        return taken

    def refuse(self, problem: str) -> None:
        """Empty the queue, unsent."""
        refuse(self.next_batch(self._bytes), problem)


def accept(answer: Outcome, offset: int | None = None) -> None:
    """Tell a publisher that the broker has what it published, at ``offset``."""
    # A publisher that was cancelled has cancelled its answer, and only that.
    if not answer.done():
        answer.set_result(offset)


def refuse(batch: Iterable[Waiting], problem: str) -> None:
    """Tell the publishers that have no answer yet that the broker does not have it."""
    for waiting in batch:
        if not waiting.accepted.done():
            _refuse(waiting.accepted, problem)


def refused(problem: str) -> Outcome:
    """Return a future that fails with ``Unavailable``."""
    answer: Outcome = asyncio.get_running_loop().create_future()
    _refuse(answer, problem)
    return answer


def _refuse(answer: Outcome, problem: str) -> None:
    answer.set_exception(Unavailable(problem))
    # Looked at here, so that asyncio does not complain of those that nobody awaits.
    answer.exception()
