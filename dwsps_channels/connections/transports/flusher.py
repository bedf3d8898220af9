"""Writes once a turn of the event loop what connections gather in it, and delivers to many of them at once."""

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from dwsps_channels.protocol.frames import Frame

if TYPE_CHECKING:
    from dwsps_channels.connections.transports.outbox import Outbox

# More than this is not handed to the event loop at once: what it has taken cannot be taken back.
SLICE_BYTES: Final = 64 * 1024


class Run:
    """Frames that go to the same party one after the other: noted once and joined once, however many are in it."""

    __slots__ = ("frames", "had", "party")

    def __init__(self, party: Collection["Outbox"]) -> None:
        self.party = party
        self.frames: list[bytes] = []
        self.had: dict[Outbox, int] = {}
        """How many of the frames somebody has had already, where that is not none."""

    def pass_over(self, outbox: "Outbox") -> list[bytes]:
        """The frames that ``outbox`` has not had yet; from now on it counts as having had them."""
        had = self.had.get(outbox, 0)
        self.had[outbox] = len(self.frames)
        return self.frames[had:]


class Flusher:
    """The courier (``core.transport.Courier``) of all outboxes on one event loop.

    Who is sent something of its own while a run goes on gets first what the run has for it so far.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_due = False
        # Those who have gathered something.
        self._filled: list[Outbox] = []
        self.run = Run(())
        """What was delivered last."""

    def add(self, outbox: "Outbox") -> None:
        """Note that ``outbox`` had gathered nothing, and does now."""
        self._filled.append(outbox)
        if not self._is_due:
            self._fall_due()

    def deliver(self, frame: Frame, party: Collection["Outbox"]) -> None:
        if party is not self.run.party:
            self._end_run()
            self.run = Run(party)
            if not self._is_due:
                self._fall_due()
        self.run.frames.append(frame.wire or frame.make_wire())

    def _end_run(self) -> None:
        run, self.run = self.run, Run(())
        for outbox in run.party:
            if outbox.is_open:
                outbox.gather(run.pass_over(outbox))

    def _fall_due(self) -> None:
        self._is_due = True
        # It is called when what is ready now is done, before the loop waits for anything.
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        run, self.run = self.run, Run(())
        frames, had = run.frames, run.had
        data = b"".join(frames)
        is_small = len(data) <= SLICE_BYTES
        for outbox in run.party:
            if outbox.is_open:
                if outbox.gathered or outbox in had:
                    outbox.gather(run.pass_over(outbox))
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
        # Who is in no run may have gathered the very same frames as others all the same: these are joined once.
        joined: list[bytes] = []
        for outbox in filled:
            gathered = outbox.gathered
            if gathered:
                outbox.gathered = []
                if gathered != joined:
                    joined, data = gathered, b"".join(gathered)
                outbox.write(gathered, data)
