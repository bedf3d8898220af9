"""The sessions of this server's own code in other processes."""

from collections.abc import Awaitable
from functools import partial
from typing import Any, ClassVar

from msgspec import UNSET

from dwsps_channels.core.entry import Entry
from dwsps_channels.core.pacing import Window
from dwsps_channels.core.session import Session
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.protocol.messages import MAX_INTEGER_ID, Publish, Requests, encode
from dwsps_channels.protocol.peer_messages import (
    READER_REQUESTS,
    WORKER_REQUESTS,
    FeedEntry,
    FeedRequest,
    HistoryRequest,
    Reached,
)
from dwsps_channels.protocol.topics import check, contexts


class PublisherSession(Session):
    """Publishes for the server's own code, to which the policy does not apply."""

    __slots__ = ()

    # What it sends is of many publishers: readers of one topic are not to hold up the others.
    waits_for_readers: ClassVar[bool] = False

    def _allowed(self, request: Any) -> bool | Awaitable[bool]:
        if isinstance(request, Publish) and not request.from_peer_server:
            contexts(request.topic)
            return True
        return super()._allowed(request)


class ReaderSession(Session):
    """Reads history for the server's own code, to which the policy does not apply; does nothing else."""

    __slots__ = ()

    requests: ClassVar[Requests] = READER_REQUESTS

    def _allowed(self, request: HistoryRequest) -> bool:
        check(request.topic)
        return True

    def _perform(self, request: HistoryRequest, allowed: bool) -> Awaitable[None] | None:
        topic = request.topic
        if request.since is UNSET:
            most = MAX_INTEGER_ID if request.last is UNSET else request.last
            replay, recovered = self._node.replay_last(topic, most), True
        else:
            replay = self._node.replay((topic,), request.since)
            recovered = topic in replay.recovered
        window = Window(self._transport, self._limits.buffered_bytes, self._pause)
        cursor = self._node.cursor
        if not replay.unencoded and window.has_room(replay.size):
            self._transport.send_all(replay.frames)
            return self._acknowledge_history(request, recovered, cursor, True)
        sent = self._send_in_bursts(window, replay)
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
    """Reads the feed of what is published on this server as well."""

    __slots__ = ()

    requests: ClassVar[Requests] = WORKER_REQUESTS

    def _allowed(self, request: Any) -> bool | Awaitable[bool]:
        return isinstance(request, FeedRequest) or super()._allowed(request)

    def _perform(self, request: Any, allowed: bool) -> Awaitable[None] | None:
        if not isinstance(request, FeedRequest):
            return super()._perform(request, allowed)
        self._node.close_feed(self._send_entry)
        self._transport.send(encode(Reached(*self._node.reached())))
        self._node.open_feed(self._send_entry, request.cursor, request.since)
        return self._reply(partial(self._ack, request))

    def _leave(self) -> None:
        super()._leave()
        self._node.close_feed(self._send_entry)

    def _send_entry(self, entry: Entry) -> None:
        published = entry.publication
        self._transport.send(
            encode(
                FeedEntry(
                    origin=published.origin,
                    sequence=published.sequence,
                    publisher=published.publisher,
                    at=entry.at,
                    topic=published.topic,
                    timestamp=published.timestamp,
                    message=published.message,
                )
            )
        )
