"""The replies to a session's frames, in the order of the frames, though some have to wait for the broker."""

from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from types import coroutine
from typing import Final

from dwsps_channels.core.futures import Future
from dwsps_channels.protocol.frames import Frame

# So many replies of a session may wait for the broker at once.
MAX_WAITING: Final = 256


@coroutine
def _turn() -> Generator[None, None, None]:
    """Let the event loop do what is ready, as ``asyncio.sleep(0)`` does."""
    yield


class ReplyQueue:
    """A queue of replies. A reply that is known waits for those before it that are not."""

    __slots__ = ("_queue", "_send")

    def __init__(self, send: Callable[[Frame], None]) -> None:
        self._send = send
        self._queue: deque[Frame | tuple[Future, Callable[[BaseException | None], Frame]]] = deque()

    def reply(self, frame: Frame) -> None:
        """Reply to the next frame."""
        if self._queue:
            self._queue.append(frame)
        else:
            self._send(frame)

    def defer(
        self, outcome: Future, make_reply: Callable[[BaseException | None], Frame]
    ) -> Awaitable[None] | None:
        """Reply to the next frame once ``outcome`` is done, with what ``make_reply`` makes of its exception.

        Returns as ``room`` does.
        """
        self._queue.append((outcome, make_reply))
        outcome.add_done_callback(self._advance)
        return self.room()

    def room(self) -> Awaitable[None] | None:
        """Await what is returned before you handle another frame: too many replies wait. ``None``: there is room."""
        return None if len(self._queue) < MAX_WAITING else self._wait_for_room()

    async def _wait_for_room(self) -> None:
        queue = self._queue
        while len(queue) >= MAX_WAITING and not isinstance(first := queue[0], Frame):
            outcome, _ = first
            if outcome.done():
                # Its callback runs in the event loop's next turn; to await it now would not give it one.
                await _turn()
            else:
                with suppress(Exception):  # its reply says so
                    await outcome

    def _advance(self, _: object) -> None:
        queue = self._queue
        while queue:
            first = queue[0]
            if isinstance(first, Frame):
                self._send(first)
            else:
                outcome, make_reply = first
                if not outcome.done():
                    return
                # If a server that ends has cancelled it, nobody is left to reply to.
                if not outcome.cancelled():
                    self._send(make_reply(outcome.exception()))
            queue.popleft()
