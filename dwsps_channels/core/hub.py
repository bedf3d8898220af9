"""The subscriptions of one process, and the fan-out to them."""

from dwsps_channels.core.audience import Audience
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.subscription import Subscriber, Subscription
from dwsps_channels.core.transport import Recipient, Transport
from dwsps_channels.protocol.topics import contexts, size


class Hub:
    """The subscriptions of all connections of one process. Matches and delivers; does no I/O."""

    def __init__(self) -> None:
        self.lagging: set[Subscriber] = set()
        """The subscribers that are behind with reading, for which publishers wait. Their sessions keep it."""
        # By topic; an empty one is not kept.
        self._audiences: dict[str, Audience] = {}

    def __len__(self) -> int:
        """Return the number of topics that have subscriptions."""
        return len(self._audiences)

    def subscribe(
        self, subscriber: Subscriber, topic: str, denied: frozenset[str] = frozenset()
    ) -> bool:
        """Subscribe to a valid topic, but for the sub-topics ``denied``; ``False``: it already was.

        If it was, ``denied`` replaces what was denied until now.
        """
        subscription = subscriber.subscriptions.get(topic)
        if subscription is not None:
            self.deny(subscription, denied)
            return False
        subscription = subscriber.subscriptions[topic] = Subscription(subscriber, topic, denied)
        subscriber.size += size(topic)
        audience = self._audiences.get(topic)
        if audience is None:
            audience = self._audiences[topic] = Audience()
        audience.add(subscription)
        return True

    def deny(self, subscription: Subscription, denied: frozenset[str]) -> None:
        """Replace the sub-topics that a subscription does not get, from the next delivery on."""
        if denied != subscription.denied:
            self._audiences[subscription.topic].deny(subscription, denied)

    def unsubscribe(self, subscriber: Subscriber, topic: str) -> bool:
        """Undo ``subscribe``, for this very topic; ``False``: there was nothing to undo."""
        subscription = subscriber.subscriptions.pop(topic, None)
        if subscription is None:
            return False
        subscriber.size -= size(topic)
        audience = self._audiences[topic]
        audience.remove(subscription)
        if not audience:
            del self._audiences[topic]
        return True

    def redirect(self, subscription: Subscription, recipient: Recipient) -> None:
        """Deliver to ``recipient``, from the next delivery on, what a subscription brings."""
        self._audiences[subscription.topic].redirect(subscription, recipient)

    def remove(self, subscriber: Subscriber) -> None:
        """Undo all of its subscriptions."""
        self.lagging.discard(subscriber)
        for topic in list(subscriber.subscriptions):
            self.unsubscribe(subscriber, topic)

    def deliver(self, publication: Publication, offset: int | None = None) -> None:
        """Deliver to the subscribers, with its place in the log: the deepest context first, each context's frame encoded once.

        Raises:
            InvalidTopic: before anything was delivered.
        """
        audiences = self._audiences
        for context in contexts(publication.topic):
            audience = audiences.get(context)
            if audience is not None:
                if audience.denying and not (audience := audience.allowed(publication.topic)):
                    continue
                audience.deliver(publication.frame(context, offset))

    def behind(self, topic: str) -> Transport | None:
        """Return the transport of a lagging subscriber that a publish to ``topic`` reaches; ``None``: no subscriber lags."""
        lagging = self.lagging
        for context in contexts(topic):
            audience = self._audiences.get(context)
            if audience is None:
                continue
            subscriptions = audience.allowed(topic).subscriptions()
            # Look through the smaller of the two.
            if len(lagging) < len(subscriptions):
                for subscriber in lagging:
                    if subscriber.subscriptions.get(context) in subscriptions:
                        return subscriber.transport
            else:
                for subscription in subscriptions:
                    if subscription.subscriber in lagging:
                        return subscription.subscriber.transport
        return None

    def reach(self, topic: str) -> int:
        """Return how many subscribers a publish to ``topic`` reaches, each counted once."""
        matching = [
            found.allowed(topic)
            for context in contexts(topic)
            if (found := self._audiences.get(context))
        ]
        if len(matching) == 1:
            return len(matching[0])
        return len({each.subscriber for audience in matching for each in audience.subscriptions()})
