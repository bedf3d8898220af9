"""Reading the kept part of the log, apart from the connection that it is read over."""

from bisect import bisect_right
from collections.abc import Generator, Sequence
from typing import Any, Final

from dwsps_channels.broker.redis.layout import Argument, Entry, Layout, parse
from dwsps_channels.core.log import Log
from dwsps_channels.core.publication import Publication
from dwsps_channels.protocol.topics import contexts

Numbered = tuple[int, Publication]
Conversation = Generator[tuple[Argument, ...], Any, Log]
"""Yields commands, is sent the reply of each, and returns the log."""
PartialConversation = Generator[tuple[Argument, ...], Any, Log | None]
"""Does the same; ``None``: a part of the log will not do."""

# A page of the largest batches is some 4 MB.
_PAGE: Final = 16

# So many pages are searched for the newest of a topic. Beyond that it is a rare one.
_MAX_PAGES: Final = 16

# The largest second part of an id.
_MOST: Final = 2**64 - 1


def load(
    layout: Layout, epoch: str, offset: int, last: bytes, *, root: str | None = None
) -> Conversation:
    """Read what is kept up to ``offset``, which is in the entry ``last``. With ``root``, read no more than its own stream."""
    now = yield from _time()
    floor, found, ages = offset, list[Numbered](), dict[int, float]()
    if root is None:
        floor, found = yield from _log(layout, offset, last, now, ages)
    floors = {}
    for name in layout.roots if root is None else [root]:
        floors[name], older = yield from _root(layout, name, offset, floor, now, ages)
        found += older
    found.sort(key=lambda numbered: numbered[0])
    return Log(epoch, offset, floor, found, floors, ages)


def load_after(
    layout: Layout, epoch: str, offset: int, last: bytes, after: int
) -> PartialConversation:
    """Read what is kept after the offset ``after``, and no more of what roots keep; ``None``: the log has forgotten it."""
    # The entry that the next offset is in: a batch may have begun before.
    page = yield ("XREVRANGE", layout.log, f"{after + 1}-{_MOST}", "-", "COUNT", 1)
    if not page:
        return None
    now = yield from _time()
    ages: dict[int, float] = {}
    place = parse(page[0]).id.decode()
    floor, found = yield from _log(layout, offset, last, now, ages, place)
    return None if floor > after else Log(epoch, offset, floor, found, ages=ages)


def load_newest(
    layout: Layout, epoch: str, offset: int, topic: str, count: int
) -> PartialConversation:
    """Read the newest ``count`` that are kept at and below ``topic``; ``None``: they are not found soon."""
    if layout.is_divided(topic):
        return None  # how many of them are kept depends on the bounds of each root
    root = layout.root_of(topic)
    bounds = layout.bounds if root is None else layout.roots[root]
    stream = layout.log if root is None else layout.stream(root)
    decode = layout.decode if root is None else layout.decode_of_root
    now = yield from _time()
    found: list[Numbered] = []
    place = f"{offset}-{_MOST}"
    for _ in range(_MAX_PAGES):
        page = yield ("XREVRANGE", stream, place, "-", "COUNT", _PAGE)
        for entry in map(parse, page):
            if entry.at < now - bounds.seconds * 1000:
                return None
            try:
                publications = decode(entry)
            except ValueError:
                return None
            found += (
                (its_offset, each)
                for its_offset, each in reversed(publications)
                if topic in contexts(each.topic)
            )
            place = f"({entry.id.decode()}"
        if len(found) >= count:
            found.reverse()
            return Log(epoch, offset, offset, found)
        if len(page) < _PAGE:
            break
    return None


def _time() -> Generator[tuple[Argument, ...], Any, int]:
    """Return the time by the clock of Redis, in ms."""
    seconds, micros = yield ("TIME",)
    return int(seconds) * 1000 + int(micros) // 1000


def _log(
    layout: Layout,
    offset: int,
    last: bytes,
    now: int,
    ages: dict[int, float],
    place: str = "-",
) -> Generator[tuple[Argument, ...], Any, tuple[int, list[Numbered]]]:
    """Return the floor, and the publications after it, from the entry ``place`` on; add their ages to ``ages``.

    What is too old is left out.
    """
    since = now - layout.bounds.seconds * 1000
    found: list[Numbered] = []
    floor, read = 0, b""
    while True:
        page = yield ("XRANGE", layout.log, place, last, "COUNT", _PAGE)
        for reply in page:
            entry = parse(reply)
            # Others remove the oldest entries meanwhile: those before the gap are of no use then.
            if entry.previous != read:
                found, floor = [], entry.first - 1
            read = entry.id
            try:
                publications = layout.decode(entry)
            except ValueError:
                read = b""  # as if it were not there
            else:
                found += publications
                _add_ages(ages, publications, now - entry.at)
                if entry.at < since:
                    found, floor = [], found[-1][0]
        if len(page) < _PAGE:
            break
        place = f"({parse(page[-1]).id.decode()}"
    return (floor, found) if read == last else (offset, [])


def _root(
    layout: Layout, root: str, offset: int, floor: int, now: int, ages: dict[int, float]
) -> Generator[tuple[Argument, ...], Any, tuple[int, list[Numbered]]]:
    """Return the floor of a root, and what its stream has between that and ``floor``, below which the log has nothing.

    Add the ages to ``ages``.
    """
    since = now - layout.roots[root].seconds * 1000
    stream = layout.stream(root)
    entries: list[Entry] = []
    place = "-"
    while True:
        page = yield ("XRANGE", stream, place, f"{offset}-{_MOST}", "COUNT", _PAGE)
        entries += map(parse, page)
        if len(page) < _PAGE:
            break
        place = f"({entries[-1].id.decode()}"
    # Asked for afterwards: what was removed meanwhile has raised it.
    kept, appended, roots = yield (
        *("HMGET", layout.state),
        *(f"floor:{root}", f"last:{root}", "roots"),
    )
    if roots is None or kept is None or layout.root_names != roots.decode():
        return floor, []  # no process that publishes keeps it yet
    if (
        appended is not None
        and int(appended) <= offset
        and not entries
        and int(kept) < int(appended)
    ):
        return floor, []  # Redis has evicted it
    own_floor, found = int(kept), list[Numbered]()
    for entry in entries:
        try:
            publications = layout.decode_of_root(entry)
        except ValueError:
            found, own_floor = [], offset
            continue
        if entry.at < since:
            if publications:
                own_floor = max(own_floor, publications[-1][0])
        else:
            found += publications
            _add_ages(ages, publications, now - entry.at)
    start = bisect_right(found, own_floor, key=lambda numbered: numbered[0])
    stop = bisect_right(found, floor, key=lambda numbered: numbered[0])
    return min(own_floor, floor), found[start:stop]


def _add_ages(ages: dict[int, float], publications: Sequence[Numbered], ms: int) -> None:
    ages.update((offset, ms / 1000) for offset, _ in publications)
