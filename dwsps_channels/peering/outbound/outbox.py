"""The messages on their way to one peer: waiting, or sent and not acknowledged."""

import logging
from collections import deque
from collections.abc import Mapping
from itertools import islice

from dwsps_channels.core.fairness import make_room, room_of
from dwsps_channels.peering.outbound.message import ForwardedMessage

logger = logging.getLogger("dwsps_channels.peering")

# Each start of a process has its own origin. Those that were silent for longest are forgotten.
MAX_ORIGINS = 256

WINDOW = 256
"""The messages that may be in flight. Their bytes may take a quarter of the outbox."""


class Outbox:
    """Keeps messages in order until the peer has acknowledged them, within limits of count and bytes.

    Above a limit, the publishers with the most messages lose their oldest ones.

    Call ``put`` or ``skip`` for every message of the feed, in order: a gap in the sequences is a message that never
    came, and is counted. Send what ``take`` returns. Call ``acknowledge`` for each reply, and ``rewind`` when the
    connection is lost.
    """

    def __init__(
        self, peer: str, messages: int, size: int, cursor: Mapping[str, int] | None = None
    ) -> None:
        self.cursor = dict(cursor or {})
        """Origin to the sequence of the last message that is done with."""
        self.forwarded = 0
        self.acked = 0
        self.dropped = 0
        self.resent = 0
        self.missed = 0
        """Of those dropped, the ones that never came to this worker."""
        self._peer = peer
        self._messages = messages
        self._size = size
        # Origin to the sequence of the last message that was put in: the feed may repeat messages.
        self._put = dict(self.cursor)
        # Whether an origin that is not in _put has begun after the feed did.
        self._knows_all = bool(cursor)
        # Origin to the number of its messages that are kept.
        self._pending: dict[str, int] = {}
        self._waiting: deque[ForwardedMessage] = deque()
        self._sent: deque[ForwardedMessage] = deque()
        # The number of messages at the head of _waiting that were sent before.
        self._again = 0
        # Bytes of all messages, and of those in flight.
        self._kept = 0
        self._unacknowledged = 0
        self._overflowed = False

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    @property
    def waiting(self) -> int:
        """The number of messages that wait to be sent."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """The number of messages that were sent and not acknowledged."""
        return len(self._sent)

    def reached(self, origin: str) -> int | None:
        """Return the sequence of the last message of ``origin`` that was put in, or done with before."""
        return self._put.get(origin)

    @property
    def origins(self) -> frozenset[str]:
        """The origins that ``reached`` knows."""
        return frozenset(self._put)

    def put(self, message: ForwardedMessage) -> None:
        """Keep ``message`` until it is sent and acknowledged, unless it was put in before."""
        if not self._reach(message.origin, message.sequence):
            return
        self._pending[message.origin] = self._pending.get(message.origin, 0) + 1
        self._waiting.append(message)
        self._kept += len(message.frame)
        count = len(self._waiting)
        # Messages in flight are older, but they are few, and cannot be called back.
        if len(self) > self._messages:
            room = room_of(self._messages, count) - len(self._sent)
            self._drop_surplus(room, by_size=False)
        if self._kept > self._size:
            room = room_of(self._size, count) - self._unacknowledged
            self._drop_surplus(room, by_size=True)

    def _drop_surplus(self, room: int, *, by_size: bool) -> None:
        count = len(self) - 1  # without the one too many
        sent_before = {id(message) for message in islice(self._waiting, self._again)}
        for message in make_room(self._waiting, room, by_size=by_size):
            self._kept -= len(message.frame)
            self._again -= id(message) in sent_before
            self._forget(message)
            self.dropped += 1
        if not self._overflowed:
            self._overflowed = True
            logger.warning(
                "peer '%s': its outbox is full at %d messages; the publishers with the most messages lose their oldest",
                self._peer,
                count,
            )

    def skip(self, message: ForwardedMessage) -> None:
        """Pass over ``message``, which is not for this peer."""
        if self._reach(message.origin, message.sequence):
            self._settle(message.origin)

    def begin(self, began: Mapping[str, int]) -> None:
        """Expect the feed to begin with these sequences for origins that are new."""
        if self._knows_all:
            for origin, first in began.items():
                # Otherwise the origin may be a forgotten one.
                if origin not in self._put and len(self._put) < MAX_ORIGINS:
                    self._put[origin] = first - 1

    def catch_up(self, cursor: Mapping[str, int]) -> None:
        """Count as missed what the feed did not bring up to ``cursor``: it never will."""
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
        """Advance to ``sequence``; return ``False`` if the feed repeats a message."""
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
        """Return the next message to send; ``None`` if none waits, or too many are in flight."""
        if not self._waiting or len(self._sent) >= WINDOW:
            return None
        if self._unacknowledged >= self._size // 4 and self._sent:
            return (
                None  # messages in flight cannot be dropped, so they leave room for those that wait
            )
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
        """The message that the next reply of the peer is about; ``None``: no reply is due."""
        return self._sent[0] if self._sent else None

    def acknowledge(self, *, refused: bool = False) -> None:
        """Drop the first message in flight: the peer has it, or has ``refused`` it for good."""
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
        """Drop and return the largest message in flight, if there is one."""
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
        """Drop all messages without counting them: they are not to be forwarded after all."""
        self._waiting.clear()
        self._sent.clear()
        self._again = self._kept = self._unacknowledged = 0
        self._pending.clear()
        for origin in self._put:
            self._settle(origin)

    def rewind(self) -> None:
        """Have the messages in flight sent again, as the connection broke."""
        self._again += len(self._sent)
        self._waiting.extendleft(reversed(self._sent))
        self._sent.clear()
        self._unacknowledged = 0

    def _forget(self, message: ForwardedMessage) -> None:
        """Count ``message`` as no longer kept."""
        origin = message.origin
        self._pending[origin] -= 1
        if not self._pending[origin]:
            del self._pending[origin]
            self._settle(origin)

    def _settle(self, origin: str) -> None:
        """Advance the cursor of an origin of which nothing is kept, past messages that were not for this peer."""
        if origin not in self._pending and origin in self._put:
            _advance(self.cursor, origin, self._put[origin])


def _advance(cursor: dict[str, int], origin: str, sequence: int) -> None:
    """Advance ``origin``, and move it to the end; forget the one that was silent for longest."""
    cursor.pop(origin, None)
    cursor[origin] = sequence
    if len(cursor) > MAX_ORIGINS:
        del cursor[next(iter(cursor))]
