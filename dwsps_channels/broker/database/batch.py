"""Publications that are committed together."""

from collections.abc import Iterator, Sequence

from dwsps_channels.broker.database.rows import Row
from dwsps_channels.broker.sending.send_queue import Waiting, refuse


class Batch:
    """Publications on their way into the log, with the publishers that wait for their offsets.

    The writer's thread sets ``offsets`` and ``rows``; the publishers are the event loop's.
    """

    def __init__(self, waiting: Sequence[Waiting]) -> None:
        self.waiting = waiting
        self.offsets: Sequence[int] = ()
        """Of each; ``Repeated`` if its key was known. Empty: it was never tried."""
        self.rows: Sequence[Row] = ()
        """Of those whose key was not known."""
        self.is_uncertain = False
        """True if a commit of it broke, and it is not known yet what became of it."""
        self.is_given_up = False
        """True once its publishers wait no longer: it is not tried again."""

    def numbered(self) -> Iterator[tuple[Waiting, int]]:
        """Yield each with its offset."""
        return zip(self.waiting, self.offsets, strict=True)

    def refuse(self, problem: str) -> None:
        """Answer the publishers that have no answer yet with ``Unavailable``. ``problem`` is its text."""
        refuse(self.waiting, problem)
