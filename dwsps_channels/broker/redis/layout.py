"""The log's place in Redis, its bounds, and the form of its entries."""

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from dwsps_channels.core.publication import Publication
from dwsps_channels.core.retention import Retention
from dwsps_channels.protocol import surrogates
from dwsps_channels.protocol.topics import NOTICES, contexts

SCRIPT: Final = (Path(__file__).parent / "log.lua").read_text()
"""The operations on the log: append, beat, join, read."""

SCRIPT_NAME: Final = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""The name by which Redis knows the script."""

VOTE_PAUSE: Final = 0.05
"""Seconds between two questions if the processes of the server have vouched for the log."""

Argument = str | bytes | int
Call = tuple[Argument, ...]
"""The arguments of the script, keys and all: what follows ``EVALSHA`` and the name of the script."""

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(list[Publication])
_SKIPPED: Final = re.compile(rb"\d+")


class Crypter(Protocol):
    """Encrypts what is kept in Redis, as ``cryptography.fernet.MultiFernet`` does."""

    def encrypt(self, data: bytes) -> bytes: ...

    def decrypt(self, token: bytes) -> bytes: ...


class Entry(NamedTuple):
    """One batch of publications, as it is in a stream."""

    id: bytes
    first: int
    """The offset of the first publication of the batch."""
    epoch: bytes
    """The epoch in which it was appended."""
    previous: bytes
    """In the log: the id of the entry before. In the stream of a root: the places of its publications in the batch."""
    source: bytes
    """The process that published it, and the number of the batch."""
    at: int
    """When it was appended, in ms, by the clock of Redis."""
    length: int
    """The number of its publications. In the stream of a root: those whose keys were known count as well."""
    skipped: Sequence[int]
    """The places of publications that have no offset, in order: their keys were known."""
    data: bytes


def parse(reply: Any) -> Entry:
    """Read an element of what ``XREAD`` and ``XRANGE`` return."""
    id, (_, epoch, _, previous, _, source, _, at, _, count, _, skipped, _, data) = reply
    return Entry(
        id,
        int(id.partition(b"-")[0]),
        epoch,
        previous,
        source,
        int(at),
        int(count),
        numbers(skipped) if skipped else (),
        data,
    )


def numbers(text: bytes) -> list[int]:
    """Return the whole numbers in ``text``."""
    return [int(each) for each in _SKIPPED.findall(text)]


def detached(publication: Publication) -> Publication:
    """Return the same, with a message that does not keep the rest of its batch in memory."""
    return replace(publication, message=publication.message.copy())


class Layout:
    """The names and the bounds of one server's streams.

    ``name`` is the same in each process of the server, and no other server's on this Redis. ``bounds`` are those of the log:
    Redis keeps up to ten seconds more, so that a slow process finds what it has yet to read. ``roots`` are the topics of
    ``conf.log_history`` with their bounds; ``None``: nothing is kept there apart from the log. ``tail``: how much of
    the log a process loads when it starts; everything by default.
    """

    def __init__(
        self,
        name: str,
        bounds: Retention,
        roots: Mapping[str, Retention | None] | None = None,
        crypter: Crypter | None = None,
        tail: Retention | None = None,
    ) -> None:
        # In braces, by which Redis Cluster keeps them together.
        self.state = f"{{{name}}}:state"
        self.log = f"{{{name}}}:log"
        keys = ("keys", "older-keys", "durable-keys", "older-durable-keys")
        self._keys = (self.state, self.log, *(f"{{{name}}}:{each}" for each in keys))
        self.bounds = bounds
        self.tail = bounds if tail is None else tail
        self._all_roots = roots or {}
        self.roots = {root: each for root, each in sorted(self._all_roots.items()) if each}
        """The roots that are kept apart."""
        self._keeps_messages = not self.roots.keys() <= {NOTICES}
        is_kept = {root: root in self.roots for root in sorted(self._all_roots)}
        self.root_names = _encode(is_kept).decode()
        """JSON: the names of all roots, each with whether it is kept."""
        self._crypter = crypter

    def stream(self, root: str) -> str:
        """Return the name of the stream of a root."""
        return f"{self.log}:{root}"

    def root_of(self, topic: str) -> str | None:
        """Return the longest root at or above ``topic``, if it has a stream; ``None``: it has none, or no root matches."""
        for context in contexts(topic):
            if context in self._all_roots:
                return context if context in self.roots else None
        return None

    def is_divided(self, topic: str) -> bool:
        """Return whether there is a root below ``topic``."""
        return any(each.startswith(f"{topic}.") for each in self._all_roots)

    def root_that_has_all(self, topic: str) -> str | None:
        """Return the root whose stream has everything at and below ``topic``; ``None``: no root's stream has."""
        return None if self.is_divided(topic) else self.root_of(topic)

    def join(self, process: str, run: str, candidate: str, epoch: str, last: bytes) -> Call:
        """Return the call by which a process verifies what it has read."""
        return self._call("join", process, run, candidate, epoch, last)

    def beat(self, process: str, run: str, epoch: str) -> Call:
        """Return the call by which a process shows that it is there. It removes what is over the bounds."""
        bounds: list[Argument] = []
        for name, each in {"": self.bounds, **self.roots}.items():
            bounds += [name, each.messages, each.bytes, int(each.seconds * 1000)]
        return self._call("beat", epoch, process, run, 1 + len(self.roots), *bounds)

    def read(
        self, run: str, epoch: str, after: int, entry: bytes, since: int, messages: int, size: int
    ) -> Call:
        """Return the call that reads what follows the offset ``after`` of ``epoch``.

        ``entry``: the id of the entry that this offset is in, if it is known. If the log does not know this place, it is read
        from the time ``since`` on, in ms.
        """
        return self._call("read", run, epoch, after, entry, since, messages, size)

    def append(
        self,
        process: str,
        number: int,
        nonce: int,
        epoch: str,
        publications: Sequence[Publication],
        keys: Sequence[str],
    ) -> Call:
        """Return the call that appends a batch, once however often it is made.

        ``nonce`` makes the id of the entry unlike any other's. An empty key is none.
        """
        keyed: list[Argument] = []
        for place, key in enumerate(keys):
            if key:
                keyed += [place, key]
        concerned: list[Argument] = [0]
        # Notices have the flag of a peer's messages. If nothing else is kept apart, the topics of clients need no look.
        if self._keeps_messages or any([each.from_peer_server for each in publications]):
            concerned = self._concerned(publications)
        return self._call(
            *("append", epoch, process, number, nonce, len(publications)),
            *(self._encoded(publications), self.bounds.bytes, self.root_names),
            *(len(keyed) // 2, *keyed, *concerned),
        )

    def _concerned(self, publications: Sequence[Publication]) -> list[Argument]:
        places: dict[str, list[int]] = {}
        for place, publication in enumerate(publications):
            root = self.root_of(publication.topic)
            if root is not None:
                places.setdefault(root, []).append(place)
        arguments: list[Argument] = [len(places)]
        for root, each in places.items():
            data = self._encoded([publications[place] for place in each])
            arguments += [root, ",".join(map(str, each)), len(each), data, self.roots[root].bytes]
        return arguments

    def _call(self, *arguments: Argument) -> Call:
        return (len(self._keys), *self._keys, *arguments)

    def _encoded(self, publications: Sequence[Publication]) -> bytes:
        data = _encode(publications)
        return data if self._crypter is None else self._crypter.encrypt(data)

    def decode(self, entry: Entry) -> list[tuple[int, Publication]]:
        """Return the publications of an entry of the log, with their offsets.

        Raises:
            ValueError: they cannot be read. The text says why.
        """
        publications = self._decoded(entry.data)
        if not entry.skipped:
            return list(enumerate(publications, entry.first))
        skipped = frozenset(entry.skipped)
        kept = [each for place, each in enumerate(publications) if place not in skipped]
        return list(enumerate(kept, entry.first))

    def may_have(self, entry: Entry, topic: str) -> bool:
        """Return ``False`` if an entry has nothing at or below ``topic``, as far as that is known without decoding it."""
        return self._crypter is not None or _encode(topic)[:-1] in entry.data

    def decode_of_root(self, entry: Entry) -> list[tuple[int, Publication]]:
        """Do as ``decode`` for an entry of a root's stream."""
        found: list[tuple[int, Publication]] = []
        skipped = frozenset(entry.skipped)
        for place, each in zip(numbers(entry.previous), self._decoded(entry.data), strict=True):
            if place not in skipped:
                before = bisect_left(entry.skipped, place)
                found.append((entry.first + place - before, each))
        return found

    def _decoded(self, data: bytes) -> list[Publication]:
        if self._crypter is not None:
            try:
                data = self._crypter.decrypt(data)
            except Exception as error:
                raise ValueError("it is encrypted with another key") from error
        try:
            return surrogates.decode(_decoder, data)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
