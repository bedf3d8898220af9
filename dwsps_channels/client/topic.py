"""The wanted state of a topic, whether or not the server knows it."""

import asyncio
from dataclasses import dataclass, field

from dwsps_channels.client.subscription import LIVE, Start, Subscription


@dataclass(slots=True, eq=False)
class Waiter:
    """Somebody waits for a subscribe to be answered."""

    future: asyncio.Future[None]
    subscription: Subscription

    @property
    def start(self) -> Start:
        return self.subscription.start or LIVE


@dataclass(slots=True, eq=False)
class Topic:
    """The readers of a topic, and how far its subscription at the server is."""

    name: str
    readers: dict[Subscription, None] = field(default_factory=dict)
    waiting: list[Waiter] = field(default_factory=list)
    """Those whose subscribe is not sent yet."""
    asked: int = 0
    """Subscribes that were sent and are not answered."""
    replaying: bool = False
    """One of them brings old messages. Others wait for its end, so that it is known for whom they are."""
    live: bool = False
    """Acknowledged on this connection."""
    granted: bool = False
    """Acknowledged on any."""
    covered: bool = False
    """The client's cursor holds for it: nothing up to there is missing. Otherwise it cannot be recovered."""

    @property
    def may_ask(self) -> bool:
        """Return whether the next of those who wait may have their subscribe sent."""
        return bool(self.waiting) and not self.replaying

    def next_group(self) -> list[Waiter]:
        """Take those who wait first, and all that one subscribe serves with them."""
        start = self.waiting[0].start
        group = [waiter for waiter in self.waiting if waiter.start == start]
        self.waiting = [waiter for waiter in self.waiting if waiter.start != start]
        return group

    def disconnect(self) -> None:
        """Note that the connection is gone."""
        self.live, self.asked, self.replaying = False, 0, False
