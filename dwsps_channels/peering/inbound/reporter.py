"""The reports on peers that are connected to this process: rows of ``PeerInbound``, for operators."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from time import monotonic

from django.db import IntegrityError, router, transaction
from django.utils import timezone

from dwsps_channels.core.peer_session import PeerSession
from dwsps_channels.models import Peer, PeerInbound
from dwsps_channels.models.peer_inbound import HEARTBEAT_INTERVAL
from dwsps_channels.models.process_name import new_process_name
from dwsps_channels.threads.pools import in_background

logger = logging.getLogger("dwsps_channels.peering")

FIRST_INTERVAL = 1.0
"""The pause before the first write, in seconds: one that comes and goes within it takes a single write."""
REPORT_INTERVAL = 5.0
"""The pause before each further one."""


@dataclass(frozen=True, slots=True)
class Report:
    """The fields of a row."""

    connections: int
    address: str
    received: int
    duplicates: int
    refused: int
    since: datetime | None


@dataclass(slots=True, eq=False)
class _Connected:
    """One peer, which is connected to this process, or was."""

    sessions: dict[str, PeerSession] = field(default_factory=dict)
    """By client."""
    address: str = ""
    since: datetime | None = None
    gone: tuple[int, int, int] = (0, 0, 0)
    """The counters of the connections that are gone."""
    written: Report | None = None
    written_at: float = float("-inf")

    def report(self) -> Report:
        open_ones = [_counters(session) for session in self.sessions.values()]
        received, duplicates, refused = map(sum, zip(self.gone, *open_ones, strict=True))
        return Report(len(self.sessions), self.address, received, duplicates, refused, self.since)


def _counters(session: PeerSession) -> tuple[int, int, int]:
    return session.received, session.duplicates, session.refused


class InboundReporter:
    """Writes a row for each peer that connects, every five seconds if it changes.

    If no peer is connected, and what the last one sent is written, nothing is done and nothing is queried.
    """

    def __init__(self) -> None:
        self._process = new_process_name()
        # By the id of the peer's row. One that was here once stays, for its counters.
        self._peers: dict[int, _Connected] = {}
        self._of_client: dict[str, _Connected] = {}
        self._reporting: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        # Set while the database cannot be written to: the log has said so.
        self._is_failing = False

    def add(self, session: PeerSession, peer: int, address: str) -> None:
        """Report on ``session``, of the peer with the id ``peer``, until ``discard``."""
        connected = self._peers.setdefault(peer, _Connected())
        if not connected.sessions:
            connected.since = timezone.now()
        connected.address = address
        client = session.identity.client
        connected.sessions[client] = session
        self._of_client[client] = connected
        self._start()

    def discard(self, client: str) -> None:
        """Report that the connection of ``client``, a peer or not, is gone."""
        connected = self._of_client.pop(client, None)
        if connected is None:
            return
        session = connected.sessions.pop(client)
        received, duplicates, refused = map(
            sum, zip(connected.gone, _counters(session), strict=True)
        )
        connected.gone = received, duplicates, refused
        if not connected.sessions:
            connected.since = None
        self._start()

    async def stop(self, timeout: float) -> None:
        """Report that all connections are gone, and end. If that takes longer than ``timeout`` seconds, leave it."""
        for client in list(self._of_client):
            self.discard(client)
        self._stopping.set()
        if self._reporting is not None:
            await asyncio.wait([self._reporting], timeout=timeout)
        if self._reporting is not None:
            self._reporting.cancel()

    def _start(self) -> None:
        if self._reporting is None and not self._stopping.is_set():
            self._reporting = asyncio.get_running_loop().create_task(self._report())

    async def _report(self) -> None:
        pause = FIRST_INTERVAL
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause)
                pause = REPORT_INTERVAL
                # Read before the write, so that a stop during it is followed by another one.
                is_last = self._stopping.is_set()
                await self._write()
                is_idle = not any(each.sessions for each in self._peers.values())
                if is_last or (is_idle and not self._due()):
                    return
        finally:
            self._reporting = None

    def _due(self) -> dict[int, Report]:
        """Return the rows that have to be written, by the peer's id."""
        beat = monotonic() - HEARTBEAT_INTERVAL
        found = {}
        for peer, connected in self._peers.items():
            report = connected.report()
            if report != connected.written or (report.connections and connected.written_at < beat):
                found[peer] = report
        return found

    async def _write(self) -> None:
        due = self._due()
        if not due:
            return
        try:
            await in_background(write_reports, self._process, due)
        except Exception:
            if not self._is_failing:
                self._is_failing = True
                logger.exception("what peers send cannot be recorded in the database; trying again")
            return
        self._is_failing = False
        for peer, report in due.items():
            connected = self._peers[peer]
            connected.written, connected.written_at = report, monotonic()


def write_reports(process: str, reports: Mapping[int, Report]) -> None:
    """Write what ``process`` reports, by the peer's id. Peers that are gone are left out."""
    now = timezone.now()
    for peer in Peer.objects.filter(pk__in=list(reports)).values_list("pk", flat=True):
        values = {**asdict(reports[peer]), "seen_at": now}
        if PeerInbound.objects.filter(peer_id=peer, process=process).update(**values):
            continue
        # The first row of this run: a good moment to forget those of runs that ended long ago.
        PeerInbound.objects.purge()
        with (
            suppress(IntegrityError),  # the peer was just removed
            transaction.atomic(using=router.db_for_write(PeerInbound)),
        ):
            PeerInbound.objects.create(peer_id=peer, process=process, **values)
