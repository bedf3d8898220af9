"""The links to all peers, and the server's feed that fills them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import time
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from dwsps_channels.core.timings import Timings
from dwsps_channels.peering.outbound.claims import ServerClaims
from dwsps_channels.peering.outbound.config import PeerConfig
from dwsps_channels.peering.outbound.link import Link
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStats, LinkStatus
from dwsps_channels.peering.outbound.outbox import Outbox
from dwsps_channels.peering.outbound.server_feed import FeedStart, ServerFeed

logger = logging.getLogger("dwsps_channels.peering")


class Store(Protocol):
    """The place where peers are configured, and their statuses are kept."""

    async def peers(self) -> Sequence[PeerConfig]:
        """Load the peers to forward to."""

    async def cursor(self, peer: int) -> Mapping[str, int]:
        """Load the cursor of the peer with the id ``peer``, as it was written last."""

    async def write(self, statuses: Mapping[int, LinkStatus]) -> None:
        """Write the status of each link, by the peer's id."""


class ForwarderStats(Struct, frozen=True):
    """The counters of the worker since it began to forward."""

    links: Mapping[str, LinkStats]
    """By the peer's name."""
    feed_reconnects: int
    """The connections to this worker's own server, after the first."""


class Forwarder:
    """Keeps a link for each peer, as the rows say, and passes each message of the server's feed to all of them."""

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
        """Forward what the server at ``url`` publishes. ``sign`` makes the credential for each connection to it."""
        self._store = store
        self._outbox_messages = outbox_messages
        self._outbox_bytes = outbox_bytes
        self._timings = timings
        self._on_change = on_change
        # By the peer's id.
        self._links: dict[int, tuple[Link, asyncio.Task[None]]] = {}
        self._store_is_away = False
        # By the peer's id, the number of missed messages that the log has reported.
        self._logged_missed: dict[int, int] = {}
        self._claims = ServerClaims(server_id)
        self._server_feed = ServerFeed(url, sign, self)

    @property
    def links(self) -> list[Link]:
        """The current links."""
        return [link for link, _ in self._links.values()]

    def stats(self) -> ForwarderStats:
        """Return the counters as they are now."""
        return ForwarderStats(
            links={link.config.name: link.stats() for link in self.links},
            feed_reconnects=self._server_feed.reconnects,
        )

    async def run(self) -> None:
        """Forward until cancelled. Then call ``flush``, if there is time, and ``close``."""
        await self._reconcile()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._feed())
            tasks.create_task(self._keep_in_step())

    async def flush(self, timeout: float) -> int:
        """Wait until the connected peers have acknowledged everything; return how many messages are left."""
        deadline = asyncio.get_running_loop().time() + timeout
        while asyncio.get_running_loop().time() < deadline:
            if not any(
                len(link.outbox) for link in self.links if link.state is LinkState.CONNECTED
            ):
                break
            await asyncio.sleep(0.02)
        return sum(len(link.outbox) for link in self.links)

    async def close(self, *, write: bool = True) -> None:
        """End the links. Write their statuses and cursors, unless another worker does by now."""
        self._log_missed()
        statuses = {
            id: replace(status, last_error=status.last_error or "the worker has stopped")
            for id, status in self._link_statuses().items()
        }
        await self._remove(*self._links)
        if not write:
            return
        try:
            await self._store.write(statuses)
        except Exception:
            # The next worker resends whatever has no recorded ack.
            logger.exception("the cursors of the peers could not be written")

    # FeedReader, for the server feed

    def start(self) -> FeedStart:
        """See ``FeedReader``. Start at the first message that some link may not have yet."""
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
            self._log_missed()
            try:
                await self._reconcile()
                await self._store.write(self._statuses())
            except Exception:
                # The database is away. Links that are connected go on.
                if not self._store_is_away:
                    logger.exception("the peers' rows cannot be read or written; trying again")
                self._store_is_away = True
            else:
                if self._store_is_away:
                    logger.info("the peers' rows can be read and written again")
                self._store_is_away = False

    def _link_statuses(self) -> dict[int, LinkStatus]:
        return {id: link.status() for id, (link, _) in self._links.items()}

    def _statuses(self) -> dict[int, LinkStatus]:
        """Return the status of each link, and for connected ones that get no messages: why."""
        statuses = self._link_statuses()
        if (outage := self._server_feed.outage) is None:
            return statuses
        since, problem = outage
        lost = f"this worker has no connection to its own server: {problem}"
        return {
            id: replace(status, state=LinkState.BACKING_OFF, since=since, last_error=lost)
            if status.state is LinkState.CONNECTED
            else status
            for id, status in statuses.items()
        }

    def _log_missed(self) -> None:
        """Log how many messages never came to this worker: one line for all peers that lost as many."""
        missed: dict[int, list[str]] = {}
        for id, (link, _) in self._links.items():
            count = link.outbox.missed - self._logged_missed.get(id, 0)
            if count:
                self._logged_missed[id] = link.outbox.missed
                missed.setdefault(count, []).append(f"'{link.config.name}'")
        for count, peers in missed.items():
            logger.warning(
                "%d messages are lost to %s: the server no longer had them when this worker asked",
                count,
                ", ".join(peers),
            )

    async def _reconcile(self) -> None:
        """Add, replace and remove links, as the rows say."""
        rows = {config.id: config for config in await self._store.peers()}
        for id, (link, task) in list(self._links.items()):
            if id in rows and rows[id] != link.config:
                logger.info("peer '%s': connecting again, as its row has changed", link.config.name)
                task.cancel()
                # Replaced at once, not when its task has ended: this one takes the messages that come meanwhile.
                self._add(rows[id], link.outbox, after=task)
        removed = self._links.keys() - rows.keys()
        for id in removed:
            logger.info("peer '%s': no longer forwarded to", self._links[id][0].config.name)
        await self._remove(*removed)
        added = [config for id, config in rows.items() if id not in self._links]
        cursors = [await self._store.cursor(config.id) for config in added]
        if added:
            # No await from here on: a message between them would seem the first one to some of the links.
            for config, cursor in zip(added, cursors, strict=True):
                outbox = Outbox(config.name, self._outbox_messages, self._outbox_bytes, cursor)
                self._add(config, outbox)
            logger.info(
                "forwarding to %s", ", ".join(f"'{link.config.name}'" for link in self.links)
            )
            # Messages for them may have come before they were added.
            self._server_feed.restart()

    def _add(
        self, config: PeerConfig, outbox: Outbox, *, after: asyncio.Task[None] | None = None
    ) -> None:
        link = Link(config, outbox, self._claims, timings=self._timings, on_change=self._on_change)

        async def run() -> None:
            if after is not None:
                # The previous link first puts its messages in flight back into the outbox.
                await _ended(after)
            await link.run()

        self._links[config.id] = link, asyncio.create_task(run())

    async def _remove(self, *ids: int) -> None:
        tasks = [self._links.pop(id)[1] for id in ids]
        for id in ids:
            # The next outbox of the peer counts from 0.
            self._logged_missed.pop(id, None)
        for task in tasks:
            task.cancel()
        if tasks:
            # In parallel, as each needs a moment for its closing handshake.
            await asyncio.wait(tasks)


async def _ended(task: asyncio.Task[None]) -> None:
    """Wait for the end of a cancelled task. If this wait is cancelled as well, raise that afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
