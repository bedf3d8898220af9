"""The sessions of peers, which end when their rows no longer allow them.

Admin actions change rows without a signal, in any process. So the rows are read at an interval while peers are connected.
"""

import asyncio
import logging
from functools import partial

from dwsps_channels.core.session import Session
from dwsps_channels.core.sessions import Sessions
from dwsps_channels.models import Peer
from dwsps_channels.protocol.close_codes import CloseCode
from dwsps_channels.protocol.errors import Forbidden
from dwsps_channels.threads.pools import in_djangos_thread

logger = logging.getLogger("dwsps_channels.peering")


class AcceptedPeers:
    """Closes the sessions of a peer that was removed, disabled, is no longer accepted from, or has a new secret."""

    def __init__(self, sessions: Sessions, poll_interval: float) -> None:
        """Read the rows every ``poll_interval`` seconds while there are sessions of peers."""
        self._sessions = sessions
        self._poll_interval = poll_interval
        # By the session's client: the peer's row as it was when the session was accepted.
        self._rows: dict[str, Peer] = {}
        self._watch: asyncio.Task[None] | None = None

    def add(self, session: Session, peer: Peer) -> None:
        """Watch ``session``, which was authenticated as ``peer``."""
        logger.info("peer '%s' connected", peer.name)
        self._rows[session.identity.client] = peer
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._close_when_changed())

    def discard(self, session: Session) -> None:
        """Forget ``session``, of a peer or not."""
        peer = self._rows.pop(session.identity.client, None)
        if peer is not None:
            logger.info("peer '%s' disconnected", peer.name)

    def stop(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.cancel()

    async def _close_when_changed(self) -> None:
        try:
            while self._rows:
                await asyncio.sleep(self._poll_interval)
                # Sessions that are added during the query are checked the next time.
                watched = list(self._rows.items())
                try:
                    ids = {peer.pk for _, peer in watched}
                    current = await in_djangos_thread(partial(Peer.objects.in_bulk, ids))
                except Exception:
                    logger.exception("the rows of peers could not be read; their connections stay")
                    continue
                for client, peer in watched:
                    reason = _objection(peer, current.get(peer.pk))
                    session = self._sessions.get(client)
                    if reason is not None and session is not None and client in self._rows:
                        logger.info("peer '%s' disconnected: %s", peer.name, reason)
                        del self._rows[client]
                        session.close(CloseCode.FORBIDDEN, Forbidden(f"stay connected: {reason}"))
        finally:
            self._watch = None


def _objection(accepted: Peer, current: Peer | None) -> str | None:
    if current is None:
        return "the peer was removed"
    if not current.enabled:
        return "the peer was disabled"
    if not current.accept:
        return "the peer is not accepted from any more"
    if current.secret != accepted.secret:
        return "the peer has a new secret"
    return None
