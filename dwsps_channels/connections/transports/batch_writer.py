"""One write for each connection per turn of the event loop, and one batch of frames for many connections."""

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from dwsps_channels.protocol.frames import Frame

if TYPE_CHECKING:
    from dwsps_channels.connections.transports.send_buffer import SendBuffer

# More than this is not handed to the event loop at once: what it has taken cannot be taken back.
SLICE_BYTES: Final = 64 * 1024


class Batch:
    """Successive frames for the same group: appended once and joined once, however many connections are in it."""

    __slots__ = ("frames", "group", "sent_counts")

    def __init__(self, group: Collection["SendBuffer"]) -> None:
        self.group = group
        self.frames: list[bytes] = []
        self.sent_counts: dict[SendBuffer, int] = {}
        """How many of the frames a connection was already given, if any."""

    def take_unsent(self, send_buffer: "SendBuffer") -> list[bytes]:
        """Return the frames that ``send_buffer`` was not given yet, and count them as given."""
        sent = self.sent_counts.get(send_buffer, 0)
        self.sent_counts[send_buffer] = len(self.frames)
        return self.frames[sent:]


class BatchWriter:
    """The broadcaster (``core.transport.Broadcaster``) of all send buffers on one event loop.

    If a connection needs a frame of its own while a batch is open, its share of the batch is written first.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_due = False
        # Those who have pending something.
        self._filled: list[SendBuffer] = []
        self.batch = Batch(())
        """The open batch."""

    def add(self, send_buffer: "SendBuffer") -> None:
        """Note that ``send_buffer`` had pending nothing, and does now."""
        self._filled.append(send_buffer)
        if not self._is_due:
            self._fall_due()

    def broadcast(self, frame: Frame, group: Collection["SendBuffer"]) -> None:
        if group is not self.batch.group:
            self._end_batch()
            self.batch = Batch(group)
            if not self._is_due:
                self._fall_due()
        self.batch.frames.append(frame.wire or frame.make_wire())

    def _end_batch(self) -> None:
        batch, self.batch = self.batch, Batch(())
        for send_buffer in batch.group:
            if send_buffer.is_open:
                send_buffer.append_frames(batch.take_unsent(send_buffer))

    def _fall_due(self) -> None:
        self._is_due = True
        # It is called when what is ready now is done, before the loop waits for anything.
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        batch, self.batch = self.batch, Batch(())
        frames, sent_counts = batch.frames, batch.sent_counts
        data = b"".join(frames)
        is_small = len(data) <= SLICE_BYTES
        for send_buffer in batch.group:
            if send_buffer.is_open:
                if send_buffer.pending or send_buffer in sent_counts:
                    send_buffer.append_frames(batch.take_unsent(send_buffer))
                elif is_small and not send_buffer.blocked:
                    # As ``SendBuffer.write``, without the call: this is done for each of a crowd.
                    try:
                        send_buffer.stream.write(data)
                    except RuntimeError:
                        send_buffer.drop()
                else:
                    send_buffer.write(frames, data)
        filled, self._filled = self._filled, []
        # What is sent from here on is of the next turn.
        self._is_due = False
        # Who is in no batch may have pending the very same frames as others all the same: these are joined once.
        joined: list[bytes] = []
        for send_buffer in filled:
            pending = send_buffer.pending
            if pending:
                send_buffer.pending = []
                if pending != joined:
                    joined, data = pending, b"".join(pending)
                send_buffer.write(pending, data)
