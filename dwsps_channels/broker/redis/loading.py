"""Reading the kept part of the log, apart from the connection that it is read over."""

from collections.abc import Callable, Generator
from typing import Any, Final

from msgspec import Struct

from dwsps_channels.broker.redis.layout import Argument, Entry, Layout, detached, numbers, parse
from dwsps_channels.core.log import Log
from dwsps_channels.core.publication import Publication
from dwsps_channels.core.replay import ReplayLimits
from dwsps_channels.core.retention import Retention
from dwsps_channels.core.ring import ENTRY_BYTES
from dwsps_channels.protocol.topics import contexts

Numbered = tuple[int, Publication]
Conversation = Generator[tuple[Argument, ...], Any, Log]
"""Yields commands, is sent the reply of each, and returns the log."""
PartialConversation = Generator[tuple[Argument, ...], Any, Log | None]
"""Does the same; ``None``: a part of the log will not do."""

# The entries of a page. The largest batches make some 4 MB at first; then a page is chosen to have about so many bytes.
_PAGE: Final = 16
_LARGEST_PAGE: Final = 1024
_PAGE_BYTES: Final = 2 * 1024 * 1024

# The largest second part of an id.
_MOST: Final = 2**64 - 1


class Search(Struct, frozen=True):
    """A search through a stream, from its end backwards."""

    bounds: Retention
    """How far back to look, at the most."""
    topic: str = ""
    """Take only what is published at and below it; empty: everything."""
    after: int = 0
    """Take only what is after this offset."""
    limits: ReplayLimits | None = None
    """Take no more than that, or little more."""
    is_late: Callable[[], bool] | None = None
    """Tells whether to look no further."""


class _Found(Struct):
    """The result of a search."""

    floor: int
    """Everything that is looked for and after this offset is in ``publications``."""
    publications: list[Numbered]
    """In order."""


def load(
    layout: Layout, epoch: str, offset: int, last: bytes, search: Search, *, root: str | None = None
) -> Conversation:
    """Read what is kept up to ``offset``, which is in the entry ``last``: the newest of the log, and what roots keep.

    With ``root``, read no more than its own stream.
    """
    now = yield from _time()
    ages: dict[int, float] = {}
    found = _Found(offset, [])
    if root is None:
        found = yield from _newest(layout, None, last, found.floor, now, ages, search)
    floors = {}
    for name in layout.roots if root is None else [root]:
        if not search.topic or root or search.topic in contexts(name):
            older = yield from _root(layout, name, found.floor, now, ages, search)
            floors[name] = older.floor
            found.publications += older.publications
    found.publications.sort(key=lambda numbered: numbered[0])
    return Log(epoch, offset, found.floor, found.publications, floors, ages)


def load_after(
    layout: Layout, epoch: str, offset: int, last: bytes, search: Search
) -> PartialConversation:
    """Read what the log itself has after ``search.after``; ``None``: what roots keep is needed, too."""
    if layout.root_that_has_all(search.topic) is not None:
        return None
    now = yield from _time()
    ages: dict[int, float] = {}
    found = yield from _newest(layout, None, last, offset, now, ages, search)
    if found.floor > search.after and layout.is_divided(search.topic):
        return None
    return Log(epoch, offset, found.floor, found.publications, ages=ages)


def load_newest(
    layout: Layout, epoch: str, offset: int, last: bytes, search: Search
) -> PartialConversation:
    """Read the newest within the limits of ``search``; ``None``: that takes more than one stream."""
    if layout.is_divided(search.topic):
        return None  # how many of them are kept depends on the bounds of each root
    root = layout.root_of(search.topic)
    now = yield from _time()
    place: Argument = last if root is None else f"{offset}-{_MOST}"
    found = yield from _newest(layout, root, place, offset, now, {}, search)
    return Log(epoch, offset, offset, found.publications)


def _time() -> Generator[tuple[Argument, ...], Any, int]:
    """Return the time by the clock of Redis, in ms."""
    seconds, micros = yield ("TIME",)
    return int(seconds) * 1000 + int(micros) // 1000


def _newest(
    layout: Layout,
    root: str | None,
    place: Argument,
    offset: int,
    now: int,
    ages: dict[int, float],
    search: Search,
) -> Generator[tuple[Argument, ...], Any, _Found]:
    """Search the log, or the stream of a root, backwards from the entry ``place``, which ``offset`` is in or after.

    Add the ages to ``ages``.
    """
    bounds = search.bounds if root is None else layout.roots[root]
    stream = layout.log if root is None else layout.stream(root)
    limits = search.limits
    since = now - bounds.seconds * 1000
    found: list[Numbered] = []
    floor = offset
    read = size = taken = 0
    expected = place
    count = _PAGE

    def result() -> _Found:
        found.reverse()
        return _Found(floor, found)

    while True:
        page = yield ("XREVRANGE", stream, place, "-", "COUNT", count)
        page_size = 0
        for reply in page:
            entry = parse(reply)
            page_size += len(entry.data)
            # Others remove the oldest entries meanwhile, and more may be gone.
            if root is None and entry.id != expected:
                return result()
            publications = None if entry.at < since else _decoded(layout, root, entry, search.topic)
            if publications is None:
                floor = min(floor, _end(root, entry))
                return result()
            floor = entry.first - 1
            length = _length(root, entry)
            for its_offset, publication in reversed(publications):
                if its_offset <= search.after:
                    continue
                if search.topic and search.topic not in contexts(publication.topic):
                    continue
                if search.topic and length > 1:
                    publication = detached(publication)  # most of the batch may be of other topics
                found.append((its_offset, publication))
                ages[its_offset] = (now - entry.at) / 1000
                taken += len(publication.topic) + len(publication.message)
            read += length
            size += len(entry.data) + ENTRY_BYTES * length
            if (
                floor <= search.after
                or read >= bounds.messages
                or size >= bounds.bytes
                or (limits and (len(found) >= limits.messages or taken >= limits.bytes))
            ):
                return result()
            expected, place = entry.previous, f"({entry.id.decode()}"
        if search.is_late is not None and search.is_late():
            return result()
        if len(page) < count:
            if root is not None:
                floor = 0  # as far as its stream goes
            return result()
        count = max(_PAGE, min(_LARGEST_PAGE, _PAGE_BYTES * count // (page_size + 1)))


def _decoded(layout: Layout, root: str | None, entry: Entry, topic: str) -> list[Numbered] | None:
    """Return the publications of an entry, or none if none is at or below ``topic``; ``None``: they cannot be read."""
    if topic and not layout.may_have(entry, topic):
        return []
    try:
        return layout.decode(entry) if root is None else layout.decode_of_root(entry)
    except ValueError:
        return None


def _length(root: str | None, entry: Entry) -> int:
    """Return the number of publications of an entry that have an offset."""
    if root is None or not entry.skipped:
        return entry.length
    return len(set(numbers(entry.previous)).difference(entry.skipped))


def _end(root: str | None, entry: Entry) -> int:
    """Return the offset of the last publication of an entry, or a greater one."""
    if root is None:
        return entry.first + entry.length - 1
    return entry.first + max(numbers(entry.previous), default=0)


def _root(
    layout: Layout, root: str, floor: int, now: int, ages: dict[int, float], search: Search
) -> Generator[tuple[Argument, ...], Any, _Found]:
    """Return what the stream of a root has up to ``floor``, below which the log has nothing. Add the ages to ``ages``."""
    stream = layout.stream(root)
    found = yield from _newest(layout, root, f"{floor}-{_MOST}", floor, now, ages, search)
    # Asked for afterwards: what was removed meanwhile has raised it.
    is_there = yield ("EXISTS", stream)
    kept, appended, roots = yield (
        *("HMGET", layout.state),
        *(f"floor:{root}", f"last:{root}", "roots"),
    )
    if roots is None or kept is None or layout.root_names != roots.decode():
        return _Found(floor, [])  # no process that publishes keeps it yet
    if appended is not None and int(kept) < int(appended) and not is_there:
        return _Found(floor, [])  # Redis has evicted it
    own_floor = min(max(int(kept), found.floor), floor)
    return _Found(own_floor, [each for each in found.publications if each[0] > own_floor])
