"""Writes once a turn of the event loop what connections gather in it, and delivers to many of them at once."""

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from dwsps_channels.protocol.frames import Frame

if TYPE_CHECKING:
    from dwsps_channels.connections.transports.outbox import Outbox

# More than this is not handed to the event loop at once: what it has taken cannot be taken back.
SLICE_BYTES: Final = 64 * 1024


class Batch:
    """Successive frames for the same group: appended once and joined once, however many connections are in it."""

    __slots__ = ("frames", "group", "sent_counts")

    def __init__(self, group: Collection["Outbox"]) -> None:
        self.group = group
        self.frames: list[bytes] = []
        self.sent_counts: dict[Outbox, int] = {}
        """How many of the frames a connection was already given, if any."""

    def take_unsent(self, outbox: "Outbox") -> list[bytes]:
        """Return the frames that ``outbox`` was not given yet, and count them as given."""
        sent = self.sent_counts.get(outbox, 0)
        self.sent_counts[outbox] = len(self.frames)
        return self.frames[sent:]


class Flusher:
    """The broadcaster (``core.transport.Broadcaster``) of all outboxes on one event loop.

    If a connection needs a frame of its own while a batch is open, its share of the batch is written first.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_due = False
        # Those who have gathered something.
        self._filled: list[Outbox] = []
        self.batch = Batch(())
        """The open batch."""

    def add(self, outbox: "Outbox") -> None:
        """Note that ``outbox`` had gathered nothing, and does now."""
        self._filled.append(outbox)
        if not self._is_due:
            self._fall_due()

    def broadcast(self, frame: Frame, group: Collection["Outbox"]) -> None:
        if group is not self.batch.group:
            self._end_batch()
            self.batch = Batch(group)
            if not self._is_due:
                self._fall_due()
        self.batch.frames.append(frame.wire or frame.make_wire())

    def _end_batch(self) -> None:
        batch, self.batch = self.batch, Batch(())
        for outbox in batch.group:
            if outbox.is_open:
                outbox.gather(batch.take_unsent(outbox))

    def _fall_due(self) -> None:
        self._is_due = True
        # It is called when what is ready now is done, before the loop waits for anything.
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        batch, self.batch = self.batch, Batch(())
        frames, sent_counts = batch.frames, batch.sent_counts
        data = b"".join(frames)
        is_small = len(data) <= SLICE_BYTES
        for outbox in batch.group:
            if outbox.is_open:
                if outbox.gathered or outbox in sent_counts:
                    outbox.gather(batch.take_unsent(outbox))
                elif is_small and not outbox.blocked:
                    # As ``Outbox.write``, without the call: this is done for each of a crowd.
                    try:
                        outbox.stream.write(data)
                    except RuntimeError:
                        outbox.drop()
                else:
                    outbox.write(frames, data)
        filled, self._filled = self._filled, []
        # What is sent from here on is of the next turn.
        self._is_due = False
        # Who is in no batch may have gathered the very same frames as others all the same: these are joined once.
        joined: list[bytes] = []
        for outbox in filled:
            gathered = outbox.gathered
            if gathered:
                outbox.gathered = []
                if gathered != joined:
                    joined, data = gathered, b"".join(gathered)
                outbox.write(gathered, data)
