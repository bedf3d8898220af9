"""One write for each connection per turn of the event loop, and one batch of frames for many connections."""

import asyncio
from collections.abc import Collection, Sequence

from dwsps_channels.connections.transports.send_buffer import SendBuffer
from dwsps_channels.protocol.frames import Frame


class Batch:
    """Successive frames for the same group: appended once and joined once, however many connections are in it."""

    __slots__ = ("_taken", "frames")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        # How many of the frames a connection was already given, if any.
        self._taken: dict[SendBuffer, int] = {}

    def take_unsent(self, buffer: SendBuffer) -> list[bytes]:
        """Return the frames that ``buffer`` was not given yet, and count them as given."""
        taken = self._taken.get(buffer, 0)
        self._taken[buffer] = len(self.frames)
        return self.frames[taken:]


class BatchWriter:
    """The broadcaster (``core.transport.Broadcaster``) of all send buffers on one event loop.

    If a connection needs a frame of its own while a batch is open, its share of the batch is written first.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_due = False
        # The buffers with frames of their own in this turn; a dict keeps the order, and each once.
        self._joined: dict[SendBuffer, None] = {}
        self.group: Collection[SendBuffer] = ()
        """The receivers of the open batch."""
        self.batch = Batch()
        """The open batch; empty if nothing was broadcast in this turn."""

    def join(self, buffer: SendBuffer) -> Sequence[bytes]:
        """Have the pending frames of ``buffer`` written at the end of this turn; return its share of the open batch."""
        self._joined[buffer] = None
        if not self._is_due:
            self._schedule()
        return self.batch.take_unsent(buffer) if buffer in self.group else ()

    def broadcast(self, frame: Frame, group: Collection[SendBuffer]) -> None:
        if group is not self.group:
            self._end_batch()
            self.group = group
            if not self._is_due:
                self._schedule()
        self.batch.frames.append(frame.wire or frame.make_wire())

    def _end_batch(self) -> None:
        """Give each receiver what it was not given yet: the frames of another batch follow."""
        group, batch = self.group, self.batch
        self.batch = Batch()
        for buffer in group:
            self._joined[buffer] = None
            buffer.add_frames(batch.take_unsent(buffer))

    def _schedule(self) -> None:
        self._is_due = True
        # Called when all that is ready now is done, before the loop waits for anything.
        self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        group, self.group = self.group, ()
        batch, self.batch = self.batch, Batch()
        joined, self._joined = self._joined, {}
        # From here on, what is sent belongs to the next turn.
        self._is_due = False
        if group:
            for buffer in joined:
                if buffer in group:
                    buffer.add_frames(batch.take_unsent(buffer))
        SendBuffer.write_turn(batch.frames, group, joined)
