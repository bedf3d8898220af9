"""What is on its way to one peer: waiting to be sent, or sent and not acknowledged."""

import logging
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from dwsps_channels.core.fairness import make_room, room_of

logger = logging.getLogger("dwsps_channels.peering")

# Each start of a process has an origin of its own: those not heard of for longest are forgotten.
MAX_ORIGINS = 256

WINDOW = 256
"""So many messages may be sent and not acknowledged, and a quarter of what the outbox holds in bytes."""


class ForwardedMessage(NamedTuple):
    """A message to be forwarded, by its name, with the frame that carries it."""

    origin: str
    sequence: int
    at: float
    """When it entered this server, in seconds since the epoch."""
    topic: str
    frame: bytes
    publisher: str = ""
    """Who has published it, by this server's id; empty for its own code."""

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.frame)


class Outbox:
    """Keeps messages in order until the peer has acknowledged them, within its caps.

    If there are too many the oldest go of whoever has published most of them.

    ``put`` and ``skip`` are called with every message of the feed, in order: a sequence that is left out is a message
    that never came, and is counted. ``take`` gives the next to be sent, ``acknowledge`` says that the first of those sent
    is done with, ``rewind`` that all of them have to be sent again.
    """

    def __init__(
        self, peer: str, messages: int, size: int, cursor: Mapping[str, int] | None = None
    ) -> None:
        self.cursor = dict(cursor or {})
        """For each origin the sequence of the last message that is done with."""
        self.forwarded = 0
        self.acked = 0
        self.dropped = 0
        self.resent = 0
        self.missed = 0
        """How many of those dropped never came to this worker."""
        self._peer = peer
        self._messages = messages
        self._size = size
        # For each origin the sequence of the last message that was put in: the feed may bring one again.
        self._put = dict(self.cursor)
        # Whether an origin that is not among those must be one that has begun since.
        self._knows_all = bool(cursor)
        # For each origin how many of its messages are kept.
        self._pending: dict[str, int] = {}
        self._waiting: deque[ForwardedMessage] = deque()
        self._sent: deque[ForwardedMessage] = deque()
        # So many at the head of _waiting were sent before.
        self._again = 0
        # Bytes: of all messages, and of those sent.
        self._kept = 0
        self._unacknowledged = 0
        self._overflowed = False

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    def reached(self, origin: str) -> int | None:
        """The sequence of the last message of ``origin`` that was put in, or was done with before."""
        return self._put.get(origin)

    @property
    def origins(self) -> frozenset[str]:
        """Those of which ``reached`` knows."""
        return frozenset(self._put)

    def put(self, message: ForwardedMessage) -> None:
        """Keep ``message`` to be sent, unless it was put in already."""
        if not self._reach(message.origin, message.sequence):
            return
        self._pending[message.origin] = self._pending.get(message.origin, 0) + 1
        self._waiting.append(message)
        self._kept += len(message.frame)
        count = len(self._waiting)
        # What is sent and not acknowledged is older, but it is on its way, and it is little.
        if len(self) > self._messages:
            room = room_of(self._messages, count) - len(self._sent)
            self._drop_surplus(room, by_size=False)
        if self._kept > self._size:
            room = room_of(self._size, count) - self._unacknowledged
            self._drop_surplus(room, by_size=True)

    def _drop_surplus(self, room: int, *, by_size: bool) -> None:
        count = len(self) - 1  # the one too many
        sent_before = {id(message) for message in islice(self._waiting, self._again)}
        for message in make_room(self._waiting, room, by_size=by_size):
            self._kept -= len(message.frame)
            self._again -= id(message) in sent_before
            self._forget(message)
            self.dropped += 1
        if not self._overflowed:
            self._overflowed = True
            logger.warning(
                "peer '%s': its outbox is full at %d messages; those who have published most lose their oldest",
                self._peer,
                count,
            )

    def skip(self, message: ForwardedMessage) -> None:
        """Be done with ``message``: it is not for this peer."""
        if self._reach(message.origin, message.sequence):
            self._settle(message.origin)

    def begin(self, began: Mapping[str, int]) -> None:
        """Expect the feed to begin with these sequences, where an origin is new."""
        if self._knows_all:
            for origin, first in began.items():
                # Else it may be one of those forgotten.
                if origin not in self._put and len(self._put) < MAX_ORIGINS:
                    self._put[origin] = first - 1

    def catch_up(self, cursor: Mapping[str, int]) -> None:
        """The feed has brought what it still had up to ``cursor``: what did not come by now never will."""
        for origin, sequence in cursor.items():
            reached = self._put.get(origin)
            if reached is None and len(self._put) < MAX_ORIGINS:
                self._put[origin] = sequence
            elif reached is not None and reached < sequence:
                self._miss(sequence - reached)
                _advance(self._put, origin, sequence)
            self._settle(origin)
        self._knows_all = True

    def _reach(self, origin: str, sequence: int) -> bool:
        """Note that the feed is at ``sequence``; ``False``: it was there before."""
        reached = self._put.get(origin)
        if reached is not None:
            if sequence <= reached:
                return False
            self._miss(sequence - reached - 1)
        _advance(self._put, origin, sequence)
        return True

    def _miss(self, messages: int) -> None:
        self.missed += messages
        self.dropped += messages

    def take(self) -> ForwardedMessage | None:
        """The next message to be sent; ``None``: there is none, or too many are not acknowledged."""
        if not self._waiting or len(self._sent) >= WINDOW:
            return None
        if self._unacknowledged >= self._size // 4 and self._sent:
            return None  # what is sent cannot be dropped: it is to leave room for what waits
        message = self._waiting.popleft()
        self._sent.append(message)
        self._unacknowledged += len(message.frame)
        if self._again:
            self._again -= 1
            self.resent += 1
        else:
            self.forwarded += 1
        return message

    @property
    def awaited(self) -> ForwardedMessage | None:
        """The message that the next answer of the peer is about; ``None``: no answer is due."""
        return self._sent[0] if self._sent else None

    def acknowledge(self, *, refused: bool = False) -> None:
        """Be done with the first message that was sent: the peer has it, or has ``refused`` it for good."""
        done = self._sent.popleft()
        self._kept -= len(done.frame)
        self._unacknowledged -= len(done.frame)
        _advance(self.cursor, done.origin, done.sequence)
        self._forget(done)
        if refused:
            self.dropped += 1
        else:
            self.acked += 1
        if self._overflowed and not self._waiting:
            self._overflowed = False
            logger.info(
                "peer '%s': its outbox is empty again; dropped so far: %d", self._peer, self.dropped
            )

    def drop_largest(self) -> ForwardedMessage | None:
        """Drop the largest message that was sent and not acknowledged, and give it; ``None``: there is none."""
        if not self._sent:
            return None
        largest = max(self._sent, key=lambda message: len(message.frame))
        self._sent.remove(largest)
        self._kept -= len(largest.frame)
        self._unacknowledged -= len(largest.frame)
        self._forget(largest)
        self.dropped += 1
        return largest

    def clear(self) -> None:
        """Forget what waits: it is not to be forwarded after all."""
        self._waiting.clear()
        self._sent.clear()
        self._again = self._kept = self._unacknowledged = 0
        self._pending.clear()
        for origin in self._put:
            self._settle(origin)

    def rewind(self) -> None:
        """Have all that was sent and not acknowledged sent again: the connection broke."""
        self._again += len(self._sent)
        self._waiting.extendleft(reversed(self._sent))
        self._sent.clear()
        self._unacknowledged = 0

    def _forget(self, message: ForwardedMessage) -> None:
        """One of its origin's messages is kept no longer."""
        origin = message.origin
        self._pending[origin] -= 1
        if not self._pending[origin]:
            del self._pending[origin]
            self._settle(origin)

    def _settle(self, origin: str) -> None:
        """Of an origin of which nothing is kept all that came is done with, also what was not for this peer."""
        if origin not in self._pending and origin in self._put:
            _advance(self.cursor, origin, self._put[origin])


def _advance(cursor: dict[str, int], origin: str, sequence: int) -> None:
    """Note how far ``origin`` has got, as the last one."""
    cursor.pop(origin, None)
    cursor[origin] = sequence
    if len(cursor) > MAX_ORIGINS:
        del cursor[next(iter(cursor))]
