"""The answers to a session's frames: in the order of the frames, though some have to wait for the broker."""

from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from types import coroutine
from typing import Final

from dwsps_channels.core.promises import Promise
from dwsps_channels.protocol.frames import Frame

# So many publishes of a session may be on their way to the other processes at once.
MAX_WAITING: Final = 256


@coroutine
def _turn() -> Generator[None, None, None]:
    """Let the event loop do what is ready: as ``asyncio.sleep(0)``."""
    yield


class Answers:
    """A line of answers. Those that are known wait for those before them that are not."""

    __slots__ = ("_line", "_send")

    def __init__(self, send: Callable[[Frame], None]) -> None:
        self._send = send
        self._line: deque[Frame | tuple[Promise, Callable[[BaseException | None], Frame]]] = deque()

    def give(self, frame: Frame) -> None:
        """Answer the next frame."""
        if self._line:
            self._line.append(frame)
        else:
            self._send(frame)

    def promise(
        self, outcome: Promise, answer: Callable[[BaseException | None], Frame]
    ) -> Awaitable[None] | None:
        """Answer the next frame once ``outcome`` is known, by what ``answer`` makes of its exception.

        Await what is returned, if anything, before the frame after it.
        """
        self._line.append((outcome, answer))
        outcome.add_done_callback(self._advance)
        return None if len(self._line) < MAX_WAITING else self._room()

    async def _room(self) -> None:
        line = self._line
        while len(line) >= MAX_WAITING and not isinstance(first := line[0], Frame):
            outcome, _ = first
            if outcome.done():
                # We are told in the event loop's next turn; to await it now would not give it one.
                await _turn()
            else:
                with suppress(Exception):  # who answers will say so
                    await outcome

    def _advance(self, _: object) -> None:
        line = self._line
        while line:
            first = line[0]
            if isinstance(first, Frame):
                self._send(first)
            else:
                outcome, answer = first
                if not outcome.done():
                    return
                # Cancelled by a server that is ending: there is nobody to be told.
                if not outcome.cancelled():
                    self._send(answer(outcome.exception()))
            line.popleft()
