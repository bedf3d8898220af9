"""The wanted state of a topic, whether or not the server knows it."""

import asyncio
from dataclasses import dataclass, field

from dwsps_channels.client.grant import Grant
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
    grant: Grant | None = None
    """That of the latest subscription with one that the server has accepted. Each subscribe without one brings it."""
    covered: bool = False
    """The client's cursor holds for it: nothing up to there is missing. Otherwise it cannot be recovered."""

    @property
    def may_ask(self) -> bool:
        """Return whether the next of those who wait may have their subscribe sent."""
        return bool(self.waiting) and not self.replaying

    @property
    def next_grant(self) -> Grant | None:
        """Return the grant of the next group."""
        return self._grant_of(self.waiting[0])

    def next_group(self) -> list[Waiter]:
        """Take those who wait first, and all that one subscribe serves with them."""
        start, grant = self.waiting[0].start, self.next_grant
        group: list[Waiter] = []
        others: list[Waiter] = []
        for waiter in self.waiting:
            is_served = waiter.start == start and _are_same(self._grant_of(waiter), grant)
            (group if is_served else others).append(waiter)
        self.waiting = others
        return group

    def take_with(self, grant: Grant) -> list[Waiter]:
        """Take those who wait with this grant."""
        taken = [waiter for waiter in self.waiting if _are_same(self._grant_of(waiter), grant)]
        self.waiting = [
            waiter for waiter in self.waiting if not _are_same(self._grant_of(waiter), grant)
        ]
        return taken

    def _grant_of(self, waiter: Waiter) -> Grant | None:
        return waiter.subscription.grant or self.grant

    def disconnect(self) -> None:
        """Note that the connection is gone."""
        self.live, self.asked, self.replaying = False, 0, False


def _are_same(one: Grant | None, other: Grant | None) -> bool:
    return one is other or (one is not None and one.is_same(other))
