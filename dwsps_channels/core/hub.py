"""The state of one process: who subscribes to what. Matches and delivers; knows no sockets."""

from collections.abc import Callable
from functools import partial

from msgspec import Raw

from dwsps_channels.core.audience import Audience, Subscriber
from dwsps_channels.core.deduplicator import Deduplicator, Key
from dwsps_channels.core.futures import Future, has_failed
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.tail import Cursor, Entry, Tail
from dwsps_channels.core.transport import Transport
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.protocol.topics import contexts, size

Feed = Callable[[Entry], None]
"""Receives each message published on this server."""


# A process that is started anew has a new origin: far more than a server has processes.
MAX_OWN_ORIGINS = 4096


class Hub:
    """The subscriptions of one process, and all that is published in it.

    ``origin`` names this run of this process among all servers. ``broadcast`` hands a publication to the server's
    other processes. It returns ``None`` if that is done at once, else a future that is done once they can be
    relied on to get it.
    """

    def __init__(
        self,
        origin: str,
        broadcast: Callable[[Publication], Future | None],
        *,
        tail: Tail | None = None,
        deduplicator: Deduplicator | None = None,
    ) -> None:
        self._origin = origin
        self._broadcast = broadcast
        self._tail = Tail() if tail is None else tail
        self._deduplicator = Deduplicator() if deduplicator is None else deduplicator
        self._published = 0
        # The first and the last sequence of each of this server's processes, as far as they have published anything.
        self._own = {origin: (1, 0)}
        # What each peer has forwarded, and the broker has not accepted yet.
        self._relaying: set[tuple[str, Key]] = set()
        self._feeds: set[Feed] = set()
        self.lagging: set[Subscriber] = set()
        """Those that are behind with reading, for whom publishers are to wait. Their sessions keep it."""
        # By topic; none that is empty is kept.
        self._audiences: dict[str, Audience] = {}

    def subscribe(self, subscriber: Subscriber, topic: str) -> bool:
        """Subscribe to a valid topic; ``False``: it already was."""
        if topic in subscriber.topics:
            return False
        subscriber.topics.add(topic)
        subscriber.size += size(topic)
        audience = self._audiences.get(topic)
        if audience is None:
            audience = self._audiences[topic] = Audience()
        audience.add(subscriber)
        return True

    def unsubscribe(self, subscriber: Subscriber, topic: str) -> bool:
        """Undo ``subscribe``, for this very topic; ``False``: there was nothing to undo."""
        if topic not in subscriber.topics:
            return False
        subscriber.topics.remove(topic)
        subscriber.size -= size(topic)
        audience = self._audiences[topic]
        audience.remove(subscriber)
        if not audience:
            del self._audiences[topic]
        return True

    def remove(self, subscriber: Subscriber) -> None:
        """Undo all of its subscriptions."""
        self.lagging.discard(subscriber)
        for topic in list(subscriber.topics):
            self.unsubscribe(subscriber, topic)

    def publish(
        self, topic: str, message: Raw, timestamp: str, publisher: str = ""
    ) -> Future | None:
        """Publish what a client, or the server's own code, has to say here. ``publisher`` is the client's id.

        Deliver to this process's subscribers, then hand over to the worker and to the other processes. Await what
        is returned, if anything, before you report success: the ack follows the broker's acceptance.

        Raises:
            InvalidTopic: before anything was delivered.
        """
        sequence = self._published + 1
        publication = Publication(topic, message, timestamp, self._origin, sequence, publisher)
        self.deliver(publication)
        self._published = sequence
        # As ``_keep``, without the call.
        entry = self._tail.append(publication)
        for feed in self._feeds:
            feed(entry)
        return self._broadcast(publication)

    def relay(self, publication: Publication) -> Future | None:
        """Publish what a peer, its ``publisher``, has forwarded, unless it was seen before; as ``publish`` otherwise.

        Handed to the other processes first: if that fails nobody has it, and the peer sends it again. So it is
        delivered here when the future is done, before anybody hears of that who asks later.

        Raises:
            InvalidTopic: before anything was delivered.
            Unavailable: the peer has sent it before, and it is not known yet what becomes of that.
        """
        contexts(publication.topic)
        name = publication.publisher, (publication.origin, publication.sequence)
        if publication.origin and name in self._relaying:
            raise Unavailable("this message is on its way already")
        if not self._is_new(publication):
            return None
        accepted = self._broadcast(publication)
        if accepted is None:
            self.deliver(publication)
        else:
            self._relaying.add(name)
            accepted.add_done_callback(partial(self._relayed, publication, name))
        return accepted

    def _relayed(self, publication: Publication, name: tuple[str, Key], accepted: Future) -> None:
        self._relaying.discard(name)
        if has_failed(accepted):
            self._deduplicator.discard(*name)
        else:
            self.deliver(publication)

    def receive(self, publication: Publication) -> None:
        """Take from the broker what another process has published or relayed."""
        if not publication.from_peer_server:
            self._remember_own(publication)
            self.deliver(publication)
            self._keep(publication)
        elif self._is_new(publication):
            self.deliver(publication)

    def _is_new(self, publication: Publication) -> bool:
        origin = publication.origin
        # A dwsps 1.0.1 server says nothing that its messages could be known by.
        if not origin:
            return True
        # What was published on this server comes back where a link leads to the server itself. A peer that claims one
        # of our origins only has its own messages dropped: ours are never looked up here.
        return origin not in self._own and self._deduplicator.add(
            publication.publisher, (origin, publication.sequence)
        )

    def _remember_own(self, publication: Publication) -> None:
        origin, sequence = publication.origin, publication.sequence
        known = self._own.get(origin)
        if known is None and len(self._own) >= MAX_OWN_ORIGINS:
            self._own = {self._origin: (1, 0)}
        self._own[origin] = sequence if known is None else known[0], sequence

    def _keep(self, publication: Publication) -> None:
        entry = self._tail.append(publication)
        for feed in self._feeds:
            feed(entry)

    def open_feed(self, feed: Feed, cursor: Cursor, since: float) -> None:
        """Give ``feed`` what the tail holds beyond ``cursor`` (see ``Tail.after``), then all that comes.

        It is bound by the contract of ``Transport.send``.
        """
        for entry in self._tail.after(cursor, since):
            feed(entry)
        self._feeds.add(feed)

    def reached(self) -> tuple[dict[str, int], dict[str, int]]:
        """For each process of this server the sequence of the first message that was had of it, and of the last."""
        own = self._own | {self._origin: (1, self._published)}
        sequences = own.items()
        return {id: first for id, (first, _) in sequences}, {
            id: last for id, (_, last) in sequences
        }

    def close_feed(self, feed: Feed) -> None:
        """Undo ``open_feed``, if it was done."""
        self._feeds.discard(feed)

    def deliver(self, publication: Publication) -> None:
        """Deliver to this process's subscribers only: deepest context first, each context's frame encoded once."""
        audiences = self._audiences
        for context in contexts(publication.topic):
            audience = audiences.get(context)
            if audience is not None:
                audience.deliver(publication.frame(context))

    def behind(self, topic: str) -> Transport | None:
        """A subscriber that a publish to ``topic`` reaches and that is behind, if there is one."""
        for context in contexts(topic):
            audience = self._audiences.get(context)
            if audience is not None:
                # It looks through the smaller of the two.
                for subscriber in audience.members() & self.lagging:
                    return subscriber.transport
        return None

    def reach(self, topic: str) -> int:
        """How many subscribers of this process a publish to ``topic`` reaches, each counted once."""
        matching = [found for context in contexts(topic) if (found := self._audiences.get(context))]
        if len(matching) == 1:
            return len(matching[0])
        return len(set().union(*(audience.members() for audience in matching)))
