"""The messages on their way to one peer: read ahead, or sent and not acknowledged."""

import asyncio
from collections import OrderedDict, deque
from typing import Final

from dwsps_channels.core.page import Page, Position
from dwsps_channels.peering.outbound.message import ForwardedMessage

IN_FLIGHT_MESSAGES: Final = 256
IN_FLIGHT_BYTES: Final = 4 * 1024 * 1024
"""The bounds of what is sent and not acknowledged. One message may be in flight in any case."""

PAGE_MESSAGES: Final = 128
PAGE_BYTES: Final = 2 * 1024 * 1024
"""The bounds of one read. There is room for it if no more than this is read ahead."""

MAX_NAMES: Final = 4096
"""The names of messages that are remembered: a log that began again may repeat some."""


class Window:
    """Keeps messages in the order of the log until the peer has acknowledged them.

    ``put`` what is for the peer, page by page, and ``advance`` past each page. Send what ``take`` returns. Call
    ``acknowledge`` for each reply, and ``rewind`` when the connection is lost.
    """

    def __init__(self, position: Position) -> None:
        """Begin at ``position``."""
        self.read_to = position
        """The place up to which the log was read."""
        self.room = asyncio.Event()
        """Set while there is room for another page."""
        self.room.set()
        self.forwarded = 0
        self.acked = 0
        self.dropped = 0
        self.resent = 0
        self.missed = 0
        """Of those dropped, the ones that the log no longer had."""
        self.restarted_at: Position | None = None
        """Set when the log has begun again: the place up to which the old one was read."""
        self.left_unread: int | None = None
        """The number of messages that the old one had beyond that; ``None``: it is not known."""
        self._waiting: deque[ForwardedMessage] = deque()
        self._sent: deque[ForwardedMessage] = deque()
        # The number of messages at the head of _waiting that were sent before.
        self._again = 0
        # Bytes of those read ahead, and of those in flight.
        self._ahead = 0
        self._unacknowledged = 0
        # The place up to which everything is done with, while something is kept; or the last message that is.
        self._done: Position | ForwardedMessage = position
        # The number of messages in the log beyond read_to; None: nothing was read yet.
        self._unread: int | None = None
        # The names of the last messages that were put in, the oldest first; the values are not used.
        self._names: OrderedDict[tuple[str, int], None] = OrderedDict()

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

    @property
    def position(self) -> Position:
        """The place up to which the peer has everything that is for it, or has refused it for good."""
        if not self._waiting and not self._sent:
            return self.read_to
        return self._done if isinstance(self._done, Position) else self._done.position

    @property
    def lag(self) -> int:
        """The number of messages in the log that are not acknowledged. Those not read yet need not be for the peer."""
        return len(self) + (self._unread or 0)

    @property
    def is_at_end(self) -> bool:
        """True if everything in the log was read, as far as known."""
        return not self._unread

    @property
    def oldest_at(self) -> float | None:
        """When the oldest message here was appended to the log, in seconds since the epoch."""
        kept = self._sent or self._waiting
        return kept[0].at if kept else None

    def put(self, message: ForwardedMessage) -> None:
        """Keep ``message`` until it is sent and acknowledged, unless it was put in before."""
        name = message.origin, message.sequence
        if name in self._names:
            return
        self._names[name] = None
        if len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)
        if not self._waiting and not self._sent:
            # Not read_to: what is missing between the two would be counted again by the next worker.
            self._done = Position(f"{message.epoch}:{message.offset - 1}", self.read_to.at)
        self._waiting.append(message)
        self._ahead += len(message.frame)

    def advance(self, page: Page, *, counts: bool = True) -> None:
        """Go past ``page``. What is missing before it counts as dropped, unless it would not be for the peer anyway."""
        if counts:
            self.missed += page.missed
            self.dropped += page.missed
            if page.restarted and self.read_to.cursor:
                self.restarted_at, self.left_unread = self.read_to, self._unread
        self.read_to = page.position
        self.measure(page)
        self._update_room()

    def measure(self, page: Page) -> None:
        """Note how much is unread, as ``page`` tells it, whether its messages are put in or not."""
        epoch, _, offset = self.read_to.cursor.rpartition(":")
        if epoch == page.cursor.rpartition(":")[0]:
            self._unread = max(0, page.end - int(offset or 0))

    def take(self) -> ForwardedMessage | None:
        """Return the next message to send; ``None`` if none waits, or too much is in flight."""
        if not self._waiting or len(self._sent) >= IN_FLIGHT_MESSAGES:
            return None
        if self._unacknowledged >= IN_FLIGHT_BYTES:
            return None
        message = self._waiting.popleft()
        size = len(message.frame)
        self._ahead -= size
        self._sent.append(message)
        self._unacknowledged += size
        if self._again:
            self._again -= 1
            self.resent += 1
        else:
            self.forwarded += 1
        if not self.room.is_set():
            self._update_room()
        return message

    @property
    def awaited(self) -> ForwardedMessage | None:
        """The message that the next reply of the peer is about; ``None``: no reply is due."""
        return self._sent[0] if self._sent else None

    def acknowledge(self, *, refused: bool = False) -> None:
        """Drop the first message in flight: the peer has it, or has ``refused`` it for good."""
        done = self._sent.popleft()
        self._unacknowledged -= len(done.frame)
        self._done = done
        if refused:
            self.dropped += 1
        else:
            self.acked += 1

    def drop_largest(self) -> ForwardedMessage | None:
        """Drop and return the largest message in flight, if there is one."""
        if not self._sent:
            return None
        largest = max(self._sent, key=lambda message: len(message.frame))
        self._sent.remove(largest)
        self._unacknowledged -= len(largest.frame)
        self.dropped += 1
        return largest

    def clear(self) -> None:
        """Drop all messages without counting them: they are not to be forwarded after all."""
        self._waiting.clear()
        self._sent.clear()
        self._again = self._ahead = self._unacknowledged = 0
        self._update_room()

    def rewind(self) -> None:
        """Have the messages in flight sent again, as the connection broke."""
        self._again += len(self._sent)
        self._waiting.extendleft(reversed(self._sent))
        self._sent.clear()
        self._ahead += self._unacknowledged
        self._unacknowledged = 0
        self._update_room()

    def _update_room(self) -> None:
        if len(self._waiting) <= PAGE_MESSAGES and self._ahead <= PAGE_BYTES:
            self.room.set()
        else:
            self.room.clear()
