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
    """By kept root (``conf.log_history``) the floor of what is published at and below it."""
    ages: Mapping[int, float] = {}
    """By offset how long ago a publication was appended, in seconds. What is not in it is new."""


def offset_of(cursor: str, epoch: str) -> int | None:
    """Return the offset of ``cursor``; ``None``: it is none, or of another epoch.

    >>> offset_of("a1:4711", "a1"), offset_of("a1:4711", "b2"), offset_of("?", "a1")
    (4711, None, None)
    """
    its_epoch, _, digits = cursor.partition(":")
    # No more than 18 digits: beyond that no log comes.
    if its_epoch != epoch or not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        return None
    return int(digits)
