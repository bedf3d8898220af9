"""The choice of messages to drop if too many are kept: the oldest of those who have published most."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from itertools import islice
from operator import attrgetter
from typing import Final, Protocol, TypeVar

# To look at so many costs little. If there are more, a quarter goes at once, so that they are not looked at for each
# that comes.
FEW: Final = 256


OWN: Final = ""
"""The publisher of what is not a client's: the messages of the server's own code, and of its peers."""


class Kept(Protocol):
    """A message that is kept."""

    @property
    def publisher(self) -> str:
        """The id of the client that published it; ``OWN``: no client did."""

    @property
    def size(self) -> int:
        """The bytes that it takes."""


T = TypeVar("T", bound=Kept)

_publisher = attrgetter("publisher")


def make_room(
    kept: deque[T], room: int, *, by_size: bool, shares: Mapping[str, int] | None = None
) -> list[T]:
    """Take messages out of ``kept`` until the rest fits into ``room``, and return them, the oldest first.

    ``room`` is in messages, or in bytes if ``by_size``. The largest publishers lose their oldest messages, until no
    publisher has more than its fair share. A publisher that has no more than that loses nothing. Half of the room is
    for ``OWN``: it stands for many. ``shares``: what each publisher has, if it is known.
    """
    of_clients = dict(_shares(kept, by_size) if shares is None else shares)
    own = of_clients.pop(OWN, 0)
    own_room = max(room // 2, room - sum(of_clients.values()))
    level = fair_level(of_clients.values(), room - min(own, own_room))
    excess = {name: share - level for name, share in of_clients.items() if share > level}
    if own > own_room:
        excess[OWN] = own - own_room
    dropped, passed = _take_oldest(kept, excess, by_size), []
    while excess:
        message = kept.popleft()
        left = excess.get(message.publisher)
        if left is None:
            passed.append(message)
            continue
        dropped.append(message)
        left -= message.size if by_size else 1
        if left > 0:
            excess[message.publisher] = left
        else:
            del excess[message.publisher]
    kept.extendleft(reversed(passed))
    return dropped


def _take_oldest(kept: deque[T], excess: dict[str, int], by_size: bool) -> list[T]:
    """Take most of the excess at once, if the oldest messages are all of it, as they nearly always are.

    One by one costs twice as much.
    """
    count = 0 if by_size else sum(excess.values()) * 3 // 4
    if count < FEW:
        return []
    found = Counter(map(_publisher, islice(kept, count)))
    if any(number >= excess.get(publisher, 0) for publisher, number in found.items()):
        return []
    for publisher, number in found.items():
        excess[publisher] -= number
    return [kept.popleft() for _ in range(count)]


def _shares(kept: Iterable[Kept], by_size: bool) -> Mapping[str, int]:
    if not by_size:
        return Counter(map(_publisher, kept))
    shares: dict[str, int] = {}
    for message in kept:
        publisher = message.publisher
        shares[publisher] = shares.get(publisher, 0) + message.size
    return shares


def fair_level(shares: Iterable[int], room: int) -> int:
    """Find the most that each may have so that all have at most ``room`` together.

    >>> fair_level([1, 50, 9], 20), fair_level([1, 2], 20)
    (10, 2)
    """
    level = 0
    ascending = sorted(shares)
    for index, share in enumerate(ascending):
        others = len(ascending) - index
        if share * others > room:
            return max(level, room // others)
        room -= share
        level = share
    return level


def room_of(limit: int, count: int) -> int:
    """Tell how much of ``limit`` to keep once ``count`` messages exceed it."""
    return limit if count <= FEW else limit - limit // 4
