"""The sessions of this server's own code in other processes."""

from collections.abc import Awaitable
from functools import partial
from typing import Any, ClassVar, Final

from msgspec import UNSET, DecodeError

from dwsps_channels.core import notice
from dwsps_channels.core.pacing import Window
from dwsps_channels.core.page import Logged, Page, Position
from dwsps_channels.core.policy import Answer
from dwsps_channels.core.session import Session
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import InvalidMessage, Unavailable
from dwsps_channels.protocol.frames import Frame, Frames
from dwsps_channels.protocol.messages import MAX_INTEGER_ID, Publish, Requests, encode
from dwsps_channels.protocol.peer_messages import (
    PUBLISHER_REQUESTS,
    READER_REQUESTS,
    WORKER_REQUESTS,
    FeedAck,
    FeedEntry,
    FeedRequest,
    HistoryRequest,
    NoticeRequest,
)
from dwsps_channels.protocol.topics import NOTICES, check, contexts

# The most that is in one page, whatever the worker asks for. To send it takes some milliseconds.
MAX_PAGE_MESSAGES: Final = 1024
MAX_PAGE_BYTES: Final = 16 * 1024 * 1024

# The requests of one worker that may wait for what is published next.
MAX_WAITING: Final = 256


class PublisherSession(Session):
    """Publishes, and sends notices, for the server's own code, to which the policy does not apply."""

    __slots__ = ()

    requests: ClassVar[Requests] = PUBLISHER_REQUESTS
    # What it sends is of many publishers: readers of one topic are not to hold up the others.
    waits_for_readers: ClassVar[bool] = False

    def _allowed(self, request: Any) -> Answer | Awaitable[Answer]:
        if isinstance(request, Publish) and not request.from_peer_server:
            contexts(request.topic)
            if request.topic == NOTICES:
                check(request.topic)
            return True
        return isinstance(request, NoticeRequest) or super()._allowed(request)

    def _perform(self, request: Any, allowed: Answer) -> Awaitable[None] | None:
        if not isinstance(request, NoticeRequest):
            return super()._perform(request, allowed)
        try:
            found = notice.decode(request.notice)
        except DecodeError:
            raise InvalidMessage("notice", "a notice") from None
        answer = self._node.notify(found)
        if isinstance(answer, int):
            return self._reply(partial(self._ack, request))
        return self._continue(request, answer, lambda _: self._reply(partial(self._ack, request)))


class ReaderSession(Session):
    """Reads history for the server's own code, to which the policy does not apply; does nothing else."""

    __slots__ = ()

    requests: ClassVar[Requests] = READER_REQUESTS

    def _allowed(self, request: HistoryRequest) -> bool:
        check(request.topic)
        return True

    def _perform(self, request: HistoryRequest, allowed: Answer) -> Awaitable[None] | None:
        topic = request.topic
        if request.since is UNSET:
            most = MAX_INTEGER_ID if request.last is UNSET else request.last
            replay, recovered = self._node.replay_last(topic, most), True
        else:
            replay = self._node.replay((topic,), request.since)
            recovered = topic in replay.recovered
        window = Window(self._transport, self._limits.buffered_bytes, self._services.pause)
        cursor = self._node.cursor
        if not replay.unencoded and window.has_room(replay.size):
            self._transport.send_all(replay.frames)
            return self._acknowledge_history(request, recovered, cursor, True)
        sent = self._send_in_bursts(window, replay, _confirm)
        return self._continue(
            request, sent, partial(self._acknowledge_history, request, recovered, cursor)
        )

    def _acknowledge_history(
        self, request: HistoryRequest, recovered: bool, cursor: str, is_sent: bool
    ) -> Awaitable[None] | None:
        if not is_sent:
            raise Unavailable("the history could not be sent")
        return self._reply(partial(self._ack, request, recovered=recovered, cursor=cursor))


class WorkerSession(PublisherSession):
    """Gives out the log as well, page by page. Several requests may wait for what is published next."""

    __slots__ = ("_ending", "_handed_over", "_waiting")

    requests: ClassVar[Requests] = WORKER_REQUESTS

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._waiting: list[FeedRequest] = []
        # The ends of pages after which nothing was requested yet, the oldest first: their readers are busy.
        self._handed_over: dict[str, None] = {}
        # Set once nothing is published any more.
        self._ending = False

    def _allowed(self, request: Any) -> Answer | Awaitable[Answer]:
        return isinstance(request, FeedRequest) or super()._allowed(request)

    def _perform(self, request: Any, allowed: Answer) -> Awaitable[None] | None:
        if not isinstance(request, FeedRequest):
            return super()._perform(request, allowed)
        if self._transport.buffered_bytes <= self._limits.buffered_bytes // 2:
            self._hand_over(request)
            return None
        return self._continue(request, self._until_read(), lambda _: self._hand_over(request))

    async def _until_read(self) -> None:
        """Wait until the worker has read most of what it asked for before."""
        window = Window(self._transport, self._limits.buffered_bytes, self._services.pause)
        while self._transport.buffered_bytes > self._limits.buffered_bytes // 2:
            if not await window.wait():
                raise self._give_up("it does not read the pages that it asks for")

    def _hand_over(self, request: FeedRequest) -> None:
        """Answer ``request``, or keep it until something is published."""
        if self._closing:
            raise Unavailable("the connection is closing")
        if not request.wait:
            self._waiting = [each for each in self._waiting if each.id != request.id]
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable(f"{MAX_WAITING} requests wait for what is published next")
        self._handed_over.pop(request.cursor, None)
        if not request.messages:
            self._send_page(request, Page((), request.cursor, request.at))
            self._end_if_read()
            return
        if not self._answer_feed(request):
            self._waiting.append(request)
            self._node.wait(self._answer_waiting)
            self._end_if_read()

    def _answer_waiting(self) -> None:
        self._waiting = [each for each in self._waiting if not self._answer_feed(each)]
        if self._waiting:
            self._node.wait(self._answer_waiting)

    def _answer_feed(self, request: FeedRequest) -> bool:
        """Send what follows the place that ``request`` names; ``False``: nothing does yet, and it may wait."""
        page = self._page(request)
        if request.wait and not (page.entries or page.missed or page.restarted):
            return False
        self._send_page(request, page)
        self._handed_over[page.cursor] = None
        if len(self._handed_over) > MAX_WAITING:
            del self._handed_over[next(iter(self._handed_over))]
        return True

    def _page(self, request: FeedRequest) -> Page:
        return self._node.page(
            Position(request.cursor, request.at),
            min(request.messages, MAX_PAGE_MESSAGES),
            min(request.size, MAX_PAGE_BYTES),
        )

    def _send_page(self, request: FeedRequest, page: Page) -> None:
        frames = Frames(map(_entry, page.entries))
        frames.append(_feed_ack(request, page))
        self._transport.send_all(frames)

    def finish(self) -> None:
        """Close once the worker has read everything. Call it when nothing is published any more."""
        self._ending = True
        self._end_if_read()

    def _end_if_read(self) -> None:
        if self._ending and not self._handed_over:
            for request in self._waiting:
                self._send_page(request, self._page(request))
            self._go_away()

    def _go_away(self) -> None:
        self.close(CloseCode.GOING_AWAY, Unavailable("the server is going away"))

    def _leave(self) -> None:
        super()._leave()
        self._node.stop_waiting(self._answer_waiting)
        self._waiting = []


async def _confirm() -> None:
    """Go on with the history: nobody's right to it ends."""


def _entry(entry: Logged) -> Frame:
    published = entry.publication
    return encode(
        FeedEntry(
            offset=entry.offset,
            at=entry.at,
            origin=published.origin,
            sequence=published.sequence,
            publisher=published.publisher,
            topic=published.topic,
            timestamp=published.timestamp,
            message=published.message,
        )
    )


def _feed_ack(request: FeedRequest, page: Page) -> Frame:
    return encode(
        FeedAck(
            action="feed",
            cursor=page.cursor,
            end=page.end,
            at=page.at,
            missed=page.missed,
            restarted=page.restarted,
            id=request.id,
        )
    )
