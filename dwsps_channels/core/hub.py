"""The state of one process: who subscribes to what. Matches and delivers; knows no sockets."""

from collections.abc import Awaitable, Callable

from dwsps_channels.core.frames import Frame
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.topics import contexts


class Subscriber:
    """One receiver of deliveries, and what it is subscribed to."""

    __slots__ = ("send", "topics")

    def __init__(self, send: Callable[[Frame], None]) -> None:
        self.send = send
        """Takes each delivery; bound by the contract of ``Transport.send``."""
        self.topics: set[str] = set()
        """Its subscriptions. Changed by the hub alone."""


class Hub:
    """The subscriptions of one process.

    ``broadcast`` hands a publication to the server's other processes. It returns ``None`` where that is done at
    once, else an awaitable that is done once they can be relied on to get it.
    """

    def __init__(self, broadcast: Callable[[Publication], Awaitable[None] | None]) -> None:
        self._broadcast = broadcast
        # topic -> its subscribers' send, in the order of subscription. No empty dicts are kept.
        self._subscribers: dict[str, dict[Subscriber, Callable[[Frame], None]]] = {}

    def subscribe(self, subscriber: Subscriber, topic: str) -> bool:
        """Subscribe to a valid topic; ``False``: it already was."""
        if topic in subscriber.topics:
            return False
        subscriber.topics.add(topic)
        self._subscribers.setdefault(topic, {})[subscriber] = subscriber.send
        return True

    def unsubscribe(self, subscriber: Subscriber, topic: str) -> bool:
        """Undo ``subscribe``, for this very topic; ``False``: there was nothing to undo."""
        if topic not in subscriber.topics:
            return False
        subscriber.topics.remove(topic)
        subscribers = self._subscribers[topic]
        del subscribers[subscriber]
        if not subscribers:
            del self._subscribers[topic]
        return True

    def remove(self, subscriber: Subscriber) -> None:
        """Undo all of its subscriptions."""
        for topic in list(subscriber.topics):
            self.unsubscribe(subscriber, topic)

    def publish(self, publication: Publication) -> Awaitable[None] | None:
        """Deliver to this process's subscribers, then hand over to the other processes.

        Await what is returned, if anything, before you report success: the ack follows the bus's acceptance.

        Raises:
            InvalidTopic: before anything was delivered.
        """
        self.deliver(publication)
        return self._broadcast(publication)

    def deliver(self, publication: Publication) -> None:
        """Deliver to this process's subscribers only: deepest context first, each context's frame encoded once."""
        subscribers_of = self._subscribers
        for context in contexts(publication.topic):
            subscribers = subscribers_of.get(context)
            if subscribers:
                frame = publication.frame(context)
                for send in subscribers.values():
                    send(frame)

    def reach(self, topic: str) -> int:
        """How many subscribers of this process a publish to ``topic`` reaches, each counted once."""
        matching = [
            found for context in contexts(topic) if (found := self._subscribers.get(context))
        ]
        if len(matching) == 1:
            return len(matching[0])
        return len(set().union(*matching))
