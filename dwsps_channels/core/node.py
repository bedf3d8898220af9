"""One process of a server: what it publishes, relays for peers, and receives from its broker."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from msgspec import Raw, Struct

from dwsps_channels.core.broker import Broker, Repeated
from dwsps_channels.core.deduplicator import Deduplicator, Key
from dwsps_channels.core.futures import Future, has_failed
from dwsps_channels.core.hub import Hub
from dwsps_channels.core.log import Log, offset_of
from dwsps_channels.core.log_source import PAGE_BYTES, PAGE_MESSAGES
from dwsps_channels.core.notice import (
    Dated,
    Notice,
    OnNotice,
    is_notice,
    missed,
    notice_in,
    publication_of,
)
from dwsps_channels.core.page import OVERLAP, Page, Position
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.replay import NO_REPLAY, Replay, Replayer, ReplayLimits
from dwsps_channels.core.tail import Tail
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.protocol.frames import Frame
from dwsps_channels.protocol.topics import NOTICES, check, contexts

# A process that starts again has a new origin: far more than a server has processes.
MAX_OWN_ORIGINS = 4096


class NodeStats(Struct, frozen=True):
    """The counters of a node, since its start."""

    published: int
    """Publications by this process's clients and code that its broker did not refuse at once."""
    offset: int | None
    """Of the last publication that came from the broker; ``None``: the broker has no log."""
    topics: int
    """Topics that have subscriptions here."""
    lagging: int
    """Subscribers that publishers wait for."""
    kept: int
    """Publications in the tail."""
    remembered: int
    """Names of peers' publications by which a duplicate is recognised."""
    readers: int
    """Readings of the log, by workers, that wait for the next publication."""


class Node:
    """Hands publications to the broker, and delivers what comes back.

    ``origin`` names this run of this process among all servers. Start ``broker`` with the node. ``on_reset`` is called
    whenever continuity is lost: subscribers may have missed publications. ``on_exclude`` is to send all clients away.
    ``on_notice`` is called with each notice of this server's processes, in its place among the publications;
    ``on_begin`` with those that the log still has when it begins. If others may have been missed, one for everything comes
    first; without a log it is called with that alone if publications were missed.
    """

    def __init__(
        self,
        origin: str,
        broker: Broker,
        *,
        tail: Tail | None = None,
        replay_limits: ReplayLimits | None = None,
        deduplicator: Deduplicator | None = None,
        on_reset: Callable[[], None] = lambda: None,
        on_exclude: Callable[[], None] = lambda: None,
        on_notice: OnNotice = lambda notice: None,
        on_begin: Callable[[Sequence[Dated]], None] = lambda notices: None,
    ) -> None:
        self.hub = Hub()
        """The subscriptions in this process."""
        self._origin = origin
        self.epoch = ""
        """The epoch of the log; empty: the broker has no log, or has not begun."""
        self._hand_over = broker.publish
        self.is_excluded = False
        """True while another process is this server: see ``Receiver.exclude``."""
        self._on_reset = on_reset
        self._on_exclude = on_exclude
        self._on_notice = on_notice
        self._on_begin = on_begin
        self._tail = Tail() if tail is None else tail
        self._replayer = Replayer(self._tail, replay_limits or ReplayLimits())
        self._deduplicator = Deduplicator() if deduplicator is None else deduplicator
        # The sequence of the last publication that was handed to the broker.
        self._published = 0
        self._offset: int | None = None
        # The server's processes that have published, this one and others.
        self._own_origins = {origin}
        # What each peer has forwarded, and the broker has not accepted yet.
        self._relaying: set[tuple[str, Key]] = set()
        # Readers that wait for the next publication. A dict, as it is in order.
        self._waiting: dict[Callable[[], None], None] = {}

    def publish(
        self, topic: str, message: Raw, timestamp: str, publisher: str = "", key: str = ""
    ) -> int | Future:
        """Publish to a valid topic for a client, whose id is ``publisher``, or for the server's own code.

        ``key``: see ``Broker.publish``; prefix a client's with what its user alone has. Await the future, if there is
        one, before you report success.
        """
        self._published = sequence = self._published + 1
        answer = self._hand_over(
            Publication(topic, message, timestamp, self._origin, sequence, publisher), key
        )
        if isinstance(answer, int):
            if key and isinstance(answer, Repeated):
                self._published -= 1  # it was published before: no gap in the sequence
        elif has_failed(answer):
            self._published -= 1  # it never left: no gap in the sequence
        return answer

    def notify(self, notice: Notice) -> int | Future:
        """Send ``notice`` to every process of the server, this one included. The answer is as that of ``publish``."""
        return self._hand_over(publication_of(notice))

    def relay(self, publication: Publication) -> int | Future | None:
        """Publish what a peer, its ``publisher``, has forwarded; ``None``: it is a duplicate.

        Raises:
            InvalidTopic: before anything was delivered.
            Unavailable: the peer has sent it before, and it is not known yet what becomes of that.
        """
        contexts(publication.topic)
        if publication.topic == NOTICES:
            check(publication.topic)
        if not publication.origin:
            # A dwsps 1.0.1 server sends nothing by which its messages could be recognised.
            return self._hand_over(publication)
        name = publication.publisher, (publication.origin, publication.sequence)
        if name in self._relaying:
            raise Unavailable("this message is on its way already")
        if self._is_own(publication.origin) or self._deduplicator.has(*name):
            return None
        answer = self._hand_over(publication)
        if not isinstance(answer, int):
            self._relaying.add(name)
            answer.add_done_callback(partial(self._relayed, name))
        return answer

    def _relayed(self, name: tuple[str, Key], _: Future) -> None:
        self._relaying.discard(name)

    @property
    def cursor(self) -> str:
        """The end of the log, as clients keep it; empty: there is no log."""
        return f"{self.epoch}:{self._offset or 0}" if self.epoch else ""

    def exclude(self) -> None:
        """Have no clients: see ``Receiver.exclude``."""
        self.is_excluded = True
        self._on_exclude()

    def miss(self) -> None:
        """Have missed publications, notices perhaps: see ``Receiver.miss``."""
        self._on_begin((missed(),))

    def begin(self, log: Log) -> None:
        """Keep what ``log`` holds: see ``Receiver.begin``."""
        self.is_excluded = False
        notices = [notice_in(each) for _, each in log.publications if is_notice(each)]
        # They may reach further back than the messages.
        floor = log.floors.get(NOTICES, log.floor)
        if self.epoch and (log.epoch != self.epoch or floor > (self._offset or 0)):
            notices.insert(0, missed())
        # In this order: other threads read the cursor, which is never to have the new epoch with the old offset.
        self._offset, self.epoch = log.offset, log.epoch
        self._replayer.reset()
        self._tail.begin(log, self._left_out_of(log.publications))
        self._wake()
        self._on_begin(notices)
        # At the start nobody is connected yet. If the broker could not read the log then, clients that came since
        # have missed what others published.
        self._on_reset()

    def _left_out_of(self, publications: Sequence[tuple[int, Publication]]) -> set[int]:
        """Return the offsets of notices, and of what peers sent twice; remember the rest."""
        found = set()
        names = set()
        for offset, publication in publications:
            origin, sequence = publication.origin, publication.sequence
            if not publication.from_peer_server:
                self._remember_origin(origin)
            elif is_notice(publication):
                found.add(offset)
            elif origin:
                # Those that this process has received before are in its memory already.
                name = publication.publisher, (origin, sequence)
                if name in names or self._is_own(origin):
                    found.add(offset)
                else:
                    names.add(name)
                    self._deduplicator.add(*name)
        return found

    def receive(self, publication: Publication, offset: int | None) -> None:
        """Deliver what comes from the broker: this process's own publications, and those of the others."""
        self._offset = offset
        if publication.from_peer_server:
            if publication.topic == NOTICES:
                self._on_notice(notice_in(publication))
            elif self._is_new(publication):
                self.hub.deliver(publication, offset)
                self._tail.append(publication, offset)
            return
        if publication.origin not in self._own_origins:
            self._remember_origin(publication.origin)
        self.hub.deliver(publication, offset)
        self._tail.append(publication, offset)
        if self._waiting:
            self._wake()

    def _is_own(self, origin: str) -> bool:
        # What was published on this server comes back if a link leads to the server itself. A peer that claims one of
        # our origins only has its own messages dropped: ours are never looked up here.
        return origin in self._own_origins

    def _is_new(self, publication: Publication) -> bool:
        origin = publication.origin
        return not origin or (
            not self._is_own(origin)
            and self._deduplicator.add(publication.publisher, (origin, publication.sequence))
        )

    def _remember_origin(self, origin: str) -> None:
        if len(self._own_origins) >= MAX_OWN_ORIGINS:
            self._own_origins = {self._origin}
        self._own_origins.add(origin)

    def is_behind(self, since: str) -> bool:
        """Tell whether the cursor ``since`` is of this log, and beyond what this process has read of it so far."""
        after = offset_of(since, self.epoch) if self.epoch else None
        return after is not None and after > (self._offset or 0)

    def replay(
        self, topics: Sequence[str], since: str, denied: Mapping[str, frozenset[str]] = {}
    ) -> Replay:
        """Return what was published at and below valid ``topics`` after the cursor ``since``.

        ``denied`` has for some of the topics the sub-topics that are left out, with all below them.
        Subscribe to the topics that are recovered in the same call of the event loop: then nothing is missing.
        """
        after = offset_of(since, self.epoch) if self.epoch else None
        if after is None or after > (self._offset or 0):
            return NO_REPLAY
        return self._replayer.recover(topics, after, denied)

    def replay_last(self, topic: str, count: int, denied: frozenset[str] = frozenset()) -> Replay:
        """Return the last ``count`` that are kept at and below a valid topic, but not at and below ``denied``.

        ``recovered`` is empty.
        """
        return self._replayer.last(topic, count, denied) if self.epoch else NO_REPLAY

    def encode(self, replay: Replay) -> Iterator[Frame]:
        """Yield the frames of ``replay`` in their order: see ``Replayer.encode``."""
        return self._replayer.encode(replay)

    def page(
        self, position: Position, messages: int = PAGE_MESSAGES, size: int = PAGE_BYTES
    ) -> Page:
        """Return what was published on this server after ``position``, as far as this process has it: see ``LogSource``."""
        # Without a log this process numbers what it receives: that serves for as long as it runs.
        epoch = self.epoch or (self._origin if self._tail.counted else "")
        end = self._tail.counted if self._offset is None else self._offset
        after = offset_of(position.cursor, epoch) if epoch else 0
        if not epoch or (after is not None and after > end):
            # Nothing came yet, or another process has read further.
            return Page((), position.cursor, position.at, after or 0)
        is_known = after is not None
        if after is None:
            after = self._tail.before(position.at - OVERLAP, end)
        found = self._tail.page(after, end, messages, size)
        cursor = f"{epoch}:{found.until}"
        return Page(found.entries, cursor, found.at, end, found.missed, restarted=not is_known)

    def wait(self, callback: Callable[[], None]) -> None:
        """Call ``callback``, once, if a page may have more: something is published, or the log begins again.

        It is bound by the contract of ``Transport.send``.
        """
        self._waiting[callback] = None

    def stop_waiting(self, callback: Callable[[], None]) -> None:
        """Undo ``wait``, if ``callback`` was not called yet."""
        self._waiting.pop(callback, None)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for callback in waiting:
            callback()

    def stats(self) -> NodeStats:
        """Return the counters as they are now."""
        return NodeStats(
            published=self._published,
            offset=self._offset,
            topics=len(self.hub),
            lagging=len(self.hub.lagging),
            kept=len(self._tail),
            remembered=len(self._deduplicator),
            readers=len(self._waiting),
        )
