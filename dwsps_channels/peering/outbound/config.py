"""The configuration of a link to a peer."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """The part of a peer's row that its link needs. Two are equal if the link can stay as it is."""

    id: int
    name: str
    url: str = field(repr=False)
    """The URL to connect to; it may contain a token."""
    secret: str = field(repr=False)
    """The bearer token; empty: none is sent."""
    dwsps: bool = False
    """True for a dwsps 1.0.1 server, which sends no hello."""
    topics: tuple[str, ...] = ()
    """The topics that are forwarded, with their sub-topics; empty: all."""
    enabled_at: float = 0.0
    """The time, in seconds since the epoch, before which messages are not for the peer."""
