"""A batch of publications on its way to the log, until its publishers have their outcomes."""

from collections.abc import Collection, Iterator, Sequence
from itertools import count

from dwsps_channels.broker.redis.layout import Call
from dwsps_channels.broker.sending.send_queue import Outcome, Waiting, accept, refuse
from dwsps_channels.core.publication import Publication


class Batch:
    """Publications that leave together, with the number by which Redis knows a batch that it has had."""

    def __init__(self, number: int, waiting: Sequence[Waiting]) -> None:
        self.number = number
        self._waiting = waiting
        self.epoch = ""
        """The epoch in which it is to be appended."""
        self.call: Call = ()
        """The call that appends it, as it was made first; empty: it was never made."""
        self.is_uncertain = False
        """True if it was sent, and no answer came."""
        self.sent_at = 0.0
        """When it was sent first without an answer, by the clock of the event loop."""
        self.first = 0
        """The answer: the offset of the first of its publications that has a new one; 0: no answer yet, or none has."""
        self.skipped: Collection[int] = ()
        """The answer: the places, from 0 on, of those whose keys were known."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def publications(self) -> list[Publication]:
        return [each.publication for each in self._waiting]

    @property
    def keys(self) -> list[str]:
        return [each.key for each in self._waiting]

    @property
    def outcomes(self) -> list[Outcome]:
        """Of the publishers that have none yet."""
        return [each.accepted for each in self._waiting if not each.accepted.done()]

    def at(self, place: int) -> Waiting:
        """Return the publication at ``place``, from 0 on."""
        return self._waiting[place]

    def numbered(self, first: int, skipped: Collection[int]) -> Iterator[tuple[int, Waiting]]:
        """Yield those that have a new offset, of which ``first`` is the lowest: all but those at the places ``skipped``."""
        waiting: Sequence[Waiting] = self._waiting
        if skipped:
            waiting = [each for place, each in enumerate(waiting) if place not in skipped]
        return zip(count(first), waiting, strict=False)

    def accept(self) -> None:
        """Answer the publishers of all but those that were skipped: the log has them."""
        for offset, each in self.numbered(self.first, self.skipped):
            accept(each.accepted, offset)

    def refuse(self, problem: str) -> None:
        """Answer the publishers that have no answer yet with ``Unavailable``. ``problem`` is its text."""
        refuse(self._waiting, problem)
