"""The configuration of a link to a peer."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """A peer's row, as far as it matters to the link. Equal if nothing that matters has changed."""

    id: int
    name: str
    url: str = field(repr=False)
    """To connect to; may hold a token."""
    secret: str = field(repr=False)
    """Sent as a bearer token; empty: none is sent."""
    dwsps: bool = False
    """True for a dwsps 1.0.1 server, which sends no hello."""
    topics: tuple[str, ...] = ()
    """The topics that are forwarded, with their sub-topics; empty: all."""
    enabled_at: float = 0.0
    """Since when it is forwarded to, in seconds since the epoch: what entered before is not for it."""
