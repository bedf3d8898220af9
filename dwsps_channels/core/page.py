"""A part of the log, as a worker reads it."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from dwsps_channels.core.publication import Publication

OVERLAP: Final = 10.0
"""Seconds before ``Position.at`` at which a page begins if the log does not know the cursor. What is read twice by this
has the same names, so the receiver knows it."""


class Position(Struct, frozen=True):
    """A place in the log: everything before it has been dealt with."""

    cursor: str = ""
    """``<epoch>:<offset>`` of the last publication; empty: nothing was dealt with yet."""
    at: float = 0.0
    """When that one was appended, in seconds since the epoch. Reading goes on from this time if the log does not know
    the cursor."""


class Logged(Struct, frozen=True):
    """A publication in its place in the log."""

    offset: int
    at: float
    """When it was appended, in seconds since the epoch."""
    publication: Publication


class Page(Struct, frozen=True):
    """The publications that follow a position."""

    entries: Sequence[Logged]
    """Published on this server, in order. What peers have sent is left out."""
    cursor: str
    """Everything up to here is in ``entries``, was sent by a peer, or is counted in ``missed``."""
    at: float = 0.0
    """The time of the last publication up to ``cursor``, or the present if the page is the end of the log."""
    end: int = 0
    """The offset of the log's end, as far as it is known."""
    missed: int = 0
    """Publications between the position and the page that the log no longer has. Some may have been a peer's."""
    restarted: bool = False
    """True if the log does not know the position's cursor: the page begins ``OVERLAP`` seconds before its time."""

    @property
    def position(self) -> Position:
        """The position after this page."""
        return Position(self.cursor, self.at)
