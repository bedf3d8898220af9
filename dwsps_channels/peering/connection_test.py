"""The connection test for rows: in the admin, and for ``manage.py peers test``."""

from collections.abc import Iterable

from dwsps_channels.models import Peer, server_id
from dwsps_channels.peering.outbound.probe import ProbeResult, probe_all
from dwsps_channels.peering.store import config_of

_LOST_SECRET = ProbeResult(False, "its secret cannot be decrypted: set it again")
_NO_SECRET = ProbeResult(False, "it has no secret: it would take us for an ordinary client")


def probe_peers(peers: Iterable[Peer]) -> list[tuple[Peer, ProbeResult]]:
    """Connect to each of ``peers``, enabled or not. Takes 15 s at most."""
    peers = list(peers)
    probed = [peer for peer in peers if not (peer.has_lost_secret or peer.lacks_secret)]
    results = probe_all([config_of(peer) for peer in probed], server_id())
    found = dict(zip((peer.pk for peer in probed), results, strict=True))
    return [
        (peer, found.get(peer.pk, _LOST_SECRET if peer.has_lost_secret else _NO_SECRET))
        for peer in peers
    ]
