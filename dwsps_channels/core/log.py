"""The log of a server: everything that is published on it, in one order, the same in each of its processes."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from dwsps_channels.core.publication import Publication


class Log(Struct, frozen=True):
    """The kept part of a log, at the moment from which a broker delivers."""

    epoch: str
    """Names one life of the log: it changes if continuity can no longer be vouched for. 1 to 32 of ``A-Za-z0-9_-``."""
    offset: int = 0
    """The offset of the last publication, kept or not; 0: nothing was published yet."""
    floor: int = 0
    """Everything after this offset is in ``publications``, except what is kept below no root."""
    publications: Sequence[tuple[int, Publication]] = ()
    """The kept publications with their offsets, in order."""
    floors: Mapping[str, int] = {}
    """By kept root (``DWSPS["HISTORY"]``) the floor of what is published at and below it."""
