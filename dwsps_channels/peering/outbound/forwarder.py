"""The links to all peers, which read the log of this server."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from dwsps_channels.core.log_source import LogSource
from dwsps_channels.core.page import Position
from dwsps_channels.core.timings import Timings
from dwsps_channels.peering.outbound.claims import ServerClaims
from dwsps_channels.peering.outbound.config import PeerConfig
from dwsps_channels.peering.outbound.link import Link
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStats, LinkStatus
from dwsps_channels.peering.outbound.send_gate import SendGate
from dwsps_channels.peering.outbound.shared_source import SharedSource
from dwsps_channels.peering.outbound.window import Window

logger = logging.getLogger("dwsps_channels.peering")

# At the end, a link that has read everything waits so long for messages that are on their way from the log.
LAST_READ_GRACE = 0.25


class Store(Protocol):
    """The place where peers are configured, and their statuses are kept."""

    async def peers(self) -> Sequence[PeerConfig]:
        """Load the peers to forward to."""

    async def position(self, peer: PeerConfig) -> Position:
        """Load the position of ``peer``, as it was written last."""

    async def write(self, statuses: Mapping[int, LinkStatus]) -> None:
        """Write the status of each link, by the peer's id."""


class ForwarderStats(Struct, frozen=True):
    """The counters of the worker since it began to forward."""

    links: Mapping[str, LinkStats]
    """By the peer's name."""


class Forwarder:
    """Keeps a link for each peer, as the rows say."""

    def __init__(
        self,
        store: Store,
        *,
        server_id: str,
        source: LogSource,
        gate: SendGate,
        timings: Timings,
        on_change: Callable[[Link], None] = lambda link: None,
    ) -> None:
        """Forward what ``source`` reads, while ``gate`` is open. ``close`` closes the source."""
        self._store = store
        self._source = SharedSource(source)
        self._gate = gate
        self._timings = timings
        self._on_change = on_change
        # By the peer's id.
        self._links: dict[int, tuple[Link, asyncio.Task[None]]] = {}
        self._store_is_away = False
        # By the peer's id, the number of missed messages that was logged.
        self._logged_missed: dict[int, int] = {}
        self._claims = ServerClaims(server_id)

    @property
    def links(self) -> list[Link]:
        """The current links."""
        return [link for link, _ in self._links.values()]

    def stats(self) -> ForwarderStats:
        """Return the counters as they are now."""
        return ForwarderStats(links={link.config.name: link.stats() for link in self.links})

    async def run(self) -> None:
        """Forward until cancelled. Then call ``flush``, if there is time, and ``close``."""
        await self._reconcile()
        while True:
            await asyncio.sleep(self._timings.PEER_POLL_INTERVAL)
            await self._keep_in_step()

    async def flush(self, timeout: float) -> int:
        """Read to the end of the log, and wait until the connected peers have acknowledged everything.

        Return how many messages are left after ``timeout`` seconds.
        """
        now = asyncio.get_running_loop().time
        started = now()
        while now() < started + timeout:
            if now() >= started + LAST_READ_GRACE:
                for link in self.links:
                    if link.window.is_at_end:
                        link.stop_reading()
            if all(
                link.is_finished or link.state is not LinkState.CONNECTED for link in self.links
            ):
                break
            await asyncio.sleep(0.02)
        return sum(link.window.lag for link in self.links)

    async def close(self, *, write: bool = True) -> None:
        """End the links. Write their statuses and positions, unless another worker does by now."""
        self._log_losses()
        statuses = {
            id: replace(status, last_error=status.last_error or "the worker has stopped")
            for id, status in self._link_statuses().items()
        }
        await self._remove(*self._links)
        await self._source.close()
        if not write:
            return
        try:
            await self._store.write(statuses)
        except Exception:
            # The next worker resends whatever has no recorded ack.
            logger.exception("the positions of the peers could not be written")

    async def _keep_in_step(self) -> None:
        self._log_losses()
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
        if (outage := self._source.outage) is None:
            return statuses
        since, problem = outage
        lost = f"this worker cannot read the log: {problem}"
        return {
            id: replace(status, state=LinkState.BACKING_OFF, since=since, last_error=lost)
            if status.state is LinkState.CONNECTED
            else status
            for id, status in statuses.items()
        }

    def _log_losses(self) -> None:
        """Log what the log no longer had, and that it has begun again: one line for all peers that lost as much."""
        missed: dict[int, list[str]] = {}
        restarted: dict[int | None, list[str]] = {}
        for id, (link, _) in self._links.items():
            window, name = link.window, f"'{link.config.name}'"
            if count := window.missed - self._logged_missed.get(id, 0):
                self._logged_missed[id] = window.missed
                missed.setdefault(count, []).append(name)
            if window.restarted_at is not None:
                restarted.setdefault(window.left_unread, []).append(name)
                window.restarted_at = None
        for count, peers in missed.items():
            logger.warning(
                "%d messages are lost to %s: the log no longer had them when this worker read on",
                count,
                ", ".join(peers),
            )
        for unread, peers in restarted.items():
            if unread == 0:
                logger.info(
                    "the log of this server has begun again; the old one was read to its end, as far as known"
                )
                continue
            logger.warning(
                "the log of this server has begun again: %s messages of the old one that were not read may be lost to %s",
                "the" if unread is None else unread,
                ", ".join(peers),
            )

    async def _reconcile(self) -> None:
        """Add, replace and remove links, as the rows say."""
        rows = {config.id: config for config in await self._store.peers()}
        for id, (link, task) in list(self._links.items()):
            if id in rows and rows[id] != link.config:
                logger.info("peer '%s': connecting again, as its row has changed", link.config.name)
                task.cancel()
                self._add(rows[id], link.window, after=task)
        removed = self._links.keys() - rows.keys()
        for id in removed:
            logger.info("peer '%s': no longer forwarded to", self._links[id][0].config.name)
        await self._remove(*removed)
        added = [config for id, config in rows.items() if id not in self._links]
        for config in added:
            self._add(config, Window(await self._store.position(config)))
        if added:
            logger.info(
                "forwarding to %s", ", ".join(f"'{link.config.name}'" for link in self.links)
            )

    def _add(
        self, config: PeerConfig, window: Window, *, after: asyncio.Task[None] | None = None
    ) -> None:
        link = Link(
            config,
            window,
            self._source,
            self._claims,
            gate=self._gate,
            timings=self._timings,
            on_change=self._on_change,
        )

        async def run() -> None:
            if after is not None:
                # The previous link first puts its messages in flight back into the window.
                await _ended(after)
            await link.run()

        self._links[config.id] = link, asyncio.create_task(run())

    async def _remove(self, *ids: int) -> None:
        tasks = [self._links.pop(id)[1] for id in ids]
        for id in ids:
            # The next window of the peer counts from 0.
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
