"""The servers that the links lead to: no two links may lead to the same one."""

from dwsps_channels.peering.outbound.config import PeerConfig


class ServerClaims:
    """Gives each server to the link that reaches it first, and this server itself to none."""

    def __init__(self, own_id: str) -> None:
        """Reserve ``own_id``, the id of this server."""
        self._own_id = own_id
        # Server id to the peer whose link has it.
        self._claimed: dict[str, PeerConfig] = {}

    def claim(self, peer: PeerConfig, server_id: str) -> str | None:
        """Claim ``server_id`` for the link to ``peer``. Return ``None``, or why the link must not be used.

        A claim outlives the connection: otherwise another link to the same server could take over, and this one's
        messages would never be sent.
        """
        if server_id == self._own_id:
            return "leads to this server itself"
        other = self._claimed.get(server_id)
        if other is not None and other.id != peer.id:
            return f"leads to the same server as '{other.name}'"
        self.release(peer)  # its URL may lead elsewhere now
        self._claimed[server_id] = peer
        return None

    def release(self, peer: PeerConfig) -> None:
        """Give back what the link to ``peer`` has claimed."""
        self._claimed = {id: other for id, other in self._claimed.items() if other.id != peer.id}
