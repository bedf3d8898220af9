"""All links of this server, and what feeds them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import time
from typing import Protocol

from dwsps_channels.core.timings import Timings
from dwsps_channels.peering.outbound.config import PeerConfig
from dwsps_channels.peering.outbound.link import Link
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStatus
from dwsps_channels.peering.outbound.outbox import Outbox
from dwsps_channels.peering.outbound.server_feed import FeedStart, ServerFeed

logger = logging.getLogger("dwsps_channels.peering")


class Store(Protocol):
    """Where peers are configured, and their status is written."""

    async def peers(self) -> Sequence[PeerConfig]:
        """The peers to forward to now."""

    async def cursor(self, peer: int) -> Mapping[str, int]:
        """How far the peer had acknowledged, by what was written last."""

    async def write(self, statuses: Mapping[int, LinkStatus]) -> None:
        """Write down how the links are, by peer."""


class Forwarder:
    """Keeps a link for each peer, in step with the rows, and passes each message of the server's feed to all of them."""

    def __init__(
        self,
        store: Store,
        *,
        server_id: str,
        url: str,
        sign: Callable[[], str | Awaitable[str]],
        outbox_messages: int,
        outbox_bytes: int,
        timings: Timings,
        on_change: Callable[[Link], None] = lambda link: None,
    ) -> None:
        self._store = store
        self._server_id = server_id
        self._outbox_messages = outbox_messages
        self._outbox_bytes = outbox_bytes
        self._timings = timings
        self._on_change = on_change
        self._links: dict[int, tuple[Link, asyncio.Task[None]]] = {}
        self._store_is_away = False
        # How many messages each link is known to have missed, by the log.
        self._told_missed: dict[int, int] = {}
        # Which link leads to which server.
        self._claimed: dict[str, Link] = {}
        self._server_feed = ServerFeed(url, sign, self)

    @property
    def links(self) -> list[Link]:
        """The links there are now."""
        return [link for link, _ in self._links.values()]

    async def run(self) -> None:
        """Forward until cancelled. Then ``flush``, if there is time, and ``close``."""
        await self._reconcile()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._feed())
            tasks.create_task(self._keep_in_step())

    async def flush(self, timeout: float) -> int:
        """Wait until the peers that are connected have all there is for them; how many messages are left."""
        deadline = asyncio.get_running_loop().time() + timeout
        while asyncio.get_running_loop().time() < deadline:
            if not any(
                len(link.outbox) for link in self.links if link.state is LinkState.CONNECTED
            ):
                break
            await asyncio.sleep(0.02)
        return sum(len(link.outbox) for link in self.links)

    async def close(self, *, write: bool = True) -> None:
        """End the links, and write down how far they got, unless somebody else does by now."""
        self._tell_missed()
        statuses = {id: link.status() for id, (link, _) in self._links.items()}
        for status in statuses.values():
            status.last_error = status.last_error or "the worker has stopped"
        await self._remove(*self._links)
        if not write:
            return
        try:
            await self._store.write(statuses)
        except Exception:
            # The next worker resends whatever has no recorded ack.
            logger.exception("how far the peers got could not be written down")

    # ServerClaims, for the links

    def claim(self, link: Link, server_id: str) -> str | None:
        """See ``ServerClaims``."""
        if server_id == self._server_id:
            return "leads to this server itself"
        other = self._claimed.get(server_id)
        if other is not None and other is not link:
            return f"leads to the same server as '{other.config.name}'"
        self.release(link)  # its URL may lead elsewhere by now
        self._claimed[server_id] = link
        return None

    def release(self, link: Link) -> None:
        """See ``ServerClaims``."""
        self._claimed = {id: other for id, other in self._claimed.items() if other is not link}

    # FeedReader, for the server feed

    def start(self) -> FeedStart:
        """See ``FeedReader``: from what any of the links may not have yet."""
        outboxes = [link.outbox for link in self.links]
        if not outboxes:
            return FeedStart({}, time())
        known = frozenset.intersection(*(outbox.origins for outbox in outboxes))
        return FeedStart(
            {origin: min(outbox.reached(origin) or 0 for outbox in outboxes) for origin in known},
            min(link.config.enabled_at for link in self.links),
        )

    def begin(self, began: Mapping[str, int]) -> None:
        """See ``FeedReader``."""
        for link in self.links:
            link.outbox.begin(began)

    def catch_up(self, cursor: Mapping[str, int]) -> None:
        """See ``FeedReader``."""
        for link in self.links:
            link.outbox.catch_up(cursor)

    async def _feed(self) -> None:
        async for message in self._server_feed.messages():
            for link, _ in self._links.values():
                link.put(message)

    async def _keep_in_step(self) -> None:
        while True:
            await asyncio.sleep(self._timings.PEER_POLL_INTERVAL)
            self._tell_missed()
            try:
                await self._reconcile()
                await self._store.write(self._statuses())
            except Exception:
                # The database is away: what is connected goes on.
                if not self._store_is_away:
                    logger.exception("the peers' rows cannot be read or written; trying on")
                self._store_is_away = True
            else:
                if self._store_is_away:
                    logger.info("the peers' rows can be read and written again")
                self._store_is_away = False

    def _statuses(self) -> dict[int, LinkStatus]:
        statuses = {id: link.status() for id, (link, _) in self._links.items()}
        if (outage := self._server_feed.outage) is not None:
            since, problem = outage
            for status in statuses.values():
                if status.state is LinkState.CONNECTED:
                    # The link is there, and nothing comes to it.
                    status.state, status.since = LinkState.BACKING_OFF, since
                    status.last_error = (
                        f"this worker has no connection to its own server: {problem}"
                    )
        return statuses

    def _tell_missed(self) -> None:
        """Log how many messages never came to this worker, one line for all the peers that lost as many."""
        missed: dict[int, list[str]] = {}
        for id, (link, _) in self._links.items():
            count = link.outbox.missed - self._told_missed.get(id, 0)
            if count:
                self._told_missed[id] = link.outbox.missed
                missed.setdefault(count, []).append(f"'{link.config.name}'")
        for count, peers in missed.items():
            logger.warning(
                "%d messages are lost to %s: the server had them no longer when this worker came for them",
                count,
                ", ".join(peers),
            )

    async def _reconcile(self) -> None:
        """Make the links what the rows say."""
        rows = {config.id: config for config in await self._store.peers()}
        for id, (link, task) in list(self._links.items()):
            if id in rows and rows[id] != link.config:
                logger.info("peer '%s': connecting again, as its row has changed", link.config.name)
                task.cancel()
                # In its place at once, and not when it has ended: what comes meanwhile is for this one.
                self._add(rows[id], link.outbox, after=task)
        removed = self._links.keys() - rows.keys()
        for id in removed:
            logger.info("peer '%s': no longer forwarded to", self._links[id][0].config.name)
        await self._remove(*removed)
        added = [config for id, config in rows.items() if id not in self._links]
        cursors = [await self._store.cursor(config.id) for config in added]
        if added:
            # From here on nothing is waited for: else one of them would take what comes now for its first message.
            for config, cursor in zip(added, cursors, strict=True):
                outbox = Outbox(config.name, self._outbox_messages, self._outbox_bytes, cursor)
                self._add(config, outbox)
            logger.info(
                "forwarding to %s", ", ".join(f"'{link.config.name}'" for link in self.links)
            )
            # What they are to get may have come before they were there.
            self._server_feed.restart()

    def _add(
        self, config: PeerConfig, outbox: Outbox, *, after: asyncio.Task[None] | None = None
    ) -> None:
        link = Link(config, outbox, self, timings=self._timings, on_change=self._on_change)

        async def run() -> None:
            if after is not None:
                # Who had the outbox before gives back what it has sent of it.
                await _ended(after)
            await link.run()

        self._links[config.id] = link, asyncio.create_task(run())

    async def _remove(self, *ids: int) -> None:
        tasks = [self._links.pop(id)[1] for id in ids]
        for id in ids:
            # The peer's next outbox counts from 0 again.
            self._told_missed.pop(id, None)
        for task in tasks:
            task.cancel()
        if tasks:
            # All at once: each takes a moment to say goodbye.
            await asyncio.wait(tasks)


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait for the end of a cancelled task. If this wait is cancelled, too, raise that afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
