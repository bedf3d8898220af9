"""A publication in the tail."""

from msgspec import Struct

from dwsps_channels.core.publication import Publication


class Entry(Struct, gc=False):
    """A publication that the tail took."""

    offset: int
    """Its place in the log. If the broker has no log, its number in this process."""
    publication: Publication
    publisher: str
    """The id of the client that published it, which has a share of its ring; ``fairness.OWN``: no client did."""
    at: float
    """The time at which it entered, in seconds since the epoch."""
    size: int = 0
    """The bytes that it takes, nearly. Set by its ring."""
    kept: bool = True
    """False once it was evicted, if an index has it. Set by the index."""
