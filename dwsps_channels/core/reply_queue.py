"""The replies to a session's frames, in the order of the frames, though some have to wait for the broker."""

from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from types import coroutine
from typing import Final

from dwsps_channels.core.futures import Future
from dwsps_channels.protocol.frames import Frame

Reply = Frame | Callable[[], Frame]
"""A reply, or what makes it when its turn has come: with a cursor, it has to be true then."""

# So many replies of a session may wait for the broker at once.
MAX_WAITING: Final = 256


@coroutine
def _turn() -> Generator[None, None, None]:
    """Let the event loop do what is ready, as ``asyncio.sleep(0)`` does."""
    yield


class ReplyQueue:
    """A queue of replies. A reply that is known waits for those before it that are not."""

    __slots__ = ("_queue", "send")

    def __init__(self, send: Callable[[Frame], None]) -> None:
        self.send = send
        """Takes the replies when their turn has come. Replace it to send the next ones elsewhere."""
        self._queue: deque[Reply | tuple[Future, Callable[[Future], Frame]]] = deque()

    def reply(self, reply: Reply) -> None:
        """Reply to the next frame."""
        if self._queue:
            self._queue.append(reply)
        else:
            self._send_now(reply)

    def defer(
        self, outcome: Future, make_reply: Callable[[Future], Frame]
    ) -> Awaitable[None] | None:
        """Reply to the next frame once ``outcome`` is done, with what ``make_reply`` makes of it.

        Returns as ``room`` does.
        """
        self._queue.append((outcome, make_reply))
        outcome.add_done_callback(self._advance)
        return self.room()

    def room(self) -> Awaitable[None] | None:
        """Await what is returned before you handle another frame: too many replies wait. ``None``: there is room."""
        return None if len(self._queue) < MAX_WAITING else self._until_fewer(MAX_WAITING)

    def sent(self) -> Awaitable[None] | None:
        """Await what is returned to have all replies sent. ``None``: they were."""
        return self._until_fewer(1) if self._queue else None

    async def _until_fewer(self, count: int) -> None:
        queue = self._queue
        while len(queue) >= count and isinstance(first := queue[0], tuple):
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
            if not isinstance(first, tuple):
                self._send_now(first)
            else:
                outcome, make_reply = first
                if not outcome.done():
                    return
                # If a server that ends has cancelled it, nobody is left to reply to.
                if not outcome.cancelled():
                    self.send(make_reply(outcome))
            queue.popleft()

    def _send_now(self, reply: Reply) -> None:
        self.send(reply if isinstance(reply, Frame) else reply())
