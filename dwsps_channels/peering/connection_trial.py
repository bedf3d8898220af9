"""The connection test, for rows: in the admin, and for ``manage.py peers test``."""

from collections.abc import Iterable

from dwsps_channels.models import Peer, server_id
from dwsps_channels.peering.outbound.probe import Finding, probe_all
from dwsps_channels.peering.store import config_of

_LOST = Finding(False, "its secret cannot be decrypted: set it again")
_NONE = Finding(False, "it has no secret: it would take us for an ordinary client")


def try_connections(peers: Iterable[Peer]) -> list[tuple[Peer, Finding]]:
    """What came of a connection to each of ``peers``, enabled or not; takes 15 s at most."""
    peers = list(peers)
    tested = [peer for peer in peers if not (peer.has_lost_secret or peer.lacks_secret)]
    findings = probe_all([config_of(peer) for peer in tested], server_id())
    found = dict(zip((peer.pk for peer in tested), findings, strict=True))
    return [(peer, found.get(peer.pk, _LOST if peer.has_lost_secret else _NONE)) for peer in peers]
