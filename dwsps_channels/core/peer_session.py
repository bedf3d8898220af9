"""The session of a peer: another server, which forwards what is published there."""

from collections.abc import Awaitable
from functools import partial
from typing import Any, ClassVar

from msgspec import UNSET

from dwsps_channels.core.deduplicator import Key
from dwsps_channels.core.futures import Future, has_failed
from dwsps_channels.core.policy import Answer
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.session import Session
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.protocol.frames import Frame
from dwsps_channels.protocol.messages import Requests, Subject
from dwsps_channels.protocol.peer_messages import PEER_REQUESTS, ForwardedPublish
from dwsps_channels.protocol.timestamps import now
from dwsps_channels.protocol.topics import NOTICES, check, contexts


class PeerSession(Session):
    """Relays what the peer forwards, in order, past the policy. What it sends else is a client's.

    The order holds across refusals (docs/reference/protocol.md, P8): after a named message that the broker did not
    take, every other one is refused until the peer has sent that one again.
    """

    __slots__ = (
        "_last",
        "_refused",
        "_refused_place",
        "_relayed",
        "duplicates",
        "received",
        "refused",
    )

    requests: ClassVar[Requests] = PEER_REQUESTS
    # What it forwards is of many publishers: readers of one topic are not to hold up the others.
    waits_for_readers: ClassVar[bool] = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.received = 0
        """Messages that the broker has taken."""
        self.duplicates = 0
        """Messages that had come before, and were dropped."""
        self.refused = 0
        """Messages that were answered with an error."""
        # The message that the broker did not take: the peer sends it again, and what came after it, too.
        self._refused: Key | None = None
        # The number of named messages so far, and the place of that one among them.
        self._relayed = 0
        self._refused_place = 0
        # What becomes of the last one that it may take.
        self._last: Future | None = None

    def _allowed(self, request: Any) -> Answer | Awaitable[Answer]:
        if _is_forwarded(request):
            contexts(request.topic)
            if request.topic == NOTICES:
                check(request.topic)
            return True
        return super()._allowed(request)

    def _handle(self, request: Any, allowed: Answer) -> Awaitable[None] | None:
        if not _is_forwarded(request):
            return super()._handle(request, allowed)
        answer = self._relay(request)
        if answer is None:
            self.duplicates += 1
            return self._acknowledge(request, UNSET)
        if isinstance(answer, int):
            self.received += 1
            return self._acknowledge(request, answer)
        return self._acknowledge_later(request, answer)

    def _relay(self, request: ForwardedPublish) -> int | Future | None:
        name = request.name
        publication = Publication(
            topic=request.topic,
            message=request.message,
            timestamp=request.timestamp or now(),
            origin=name[0] if name else "",
            sequence=name[1] if name else 0,
            publisher=self.identity.peer or "",
            from_peer_server=True,
        )
        if name is None:  # its sender sends nothing again
            answer = self._node.relay(publication)
            if not (answer is None or isinstance(answer, int)):
                answer.add_done_callback(self._count)
            return answer
        if self._refused == name:
            self._last = None  # it comes again, and what came after it will
        # Perhaps one was refused in this very turn, and the callback has not run: then the last was, too.
        elif self._refused is not None or (self._last is not None and has_failed(self._last)):
            # Taken now, it would be ahead of what it came after.
            raise Unavailable("what was sent before it is to be sent again first")
        self._relayed = place = self._relayed + 1
        self._refused, self._refused_place = name, place  # until it is on its way
        answer = self._node.relay(publication)
        if answer is None or isinstance(answer, int):
            self._refused = None
        elif not has_failed(answer):
            self._refused = None
            self._last = answer
            answer.add_done_callback(partial(self._settled, name, place))
        return answer

    def _settled(self, name: Key, place: int, outcome: Future) -> None:
        self._count(outcome)
        # The first of those that were refused, in whatever order the broker says so.
        if has_failed(outcome) and (self._refused is None or place < self._refused_place):
            self._refused, self._refused_place = name, place

    def _count(self, outcome: Future) -> None:
        if not has_failed(outcome):
            self.received += 1

    def _error(self, error: BaseException, subject: Subject) -> Frame:
        if subject.action == "publish":
            self.refused += 1
        return super()._error(error, subject)


def _is_forwarded(request: Any) -> bool:
    return isinstance(request, ForwardedPublish) and request.from_peer_server
