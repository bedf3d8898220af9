"""The contract of a source: the log of a server, as its worker reads it."""

from typing import Final, Protocol

from dwsps_channels.core.page import Page, Position

PAGE_MESSAGES: Final = 256
PAGE_BYTES: Final = 4 * 1024 * 1024

WAIT: Final = 1.0
"""Seconds that a read waits, at most, for something to read."""


class SourceUnavailable(Exception):
    """The log cannot be read for now."""

    def __init__(self, problem: str) -> None:
        """Say why: ``problem`` is for operators."""
        super().__init__(problem)
        self.problem = problem


class LogSource(Protocol):
    """Reads the log. Every implementation passes ``tests/sources/contract.py``."""

    async def read(
        self, position: Position, *, messages: int = PAGE_MESSAGES, size: int = PAGE_BYTES
    ) -> Page:
        """Return what follows ``position``: so many ``messages`` at most, whose JSON has ``size`` bytes at most.

        The first message comes however large it is. If nothing follows, this waits up to ``WAIT`` seconds for a message, and
        then returns an empty page. Several reads may be under way. A read can be cancelled.

        Raises:
            SourceUnavailable: the log cannot be read for now.
        """

    async def close(self) -> None:
        """Give back what was opened."""
