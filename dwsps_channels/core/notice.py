"""Notices about access, which the processes of a server send each other: who is out, and what is to be decided again.

A notice travels as a publication to a topic that no client can use. So it has a place in the order of the publications.
"""

from collections.abc import Callable
from datetime import datetime
from time import time
from typing import Final, NamedTuple

import msgspec
from msgspec import DecodeError, Raw, Struct

from dwsps_channels.core.publication import Publication
from dwsps_channels.protocol.timestamps import now
from dwsps_channels.protocol.topics import NOTICES, check


class Verify(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="verify"):
    """Look up who is behind each connection of a user, close it if that is nobody, and recheck its subscriptions."""

    user: str = ""
    """The primary key; empty: every user, or those of the session."""
    session: str = ""
    """If not empty, only the connections of this session: see ``Identity.session``."""
    revokes: bool = False
    """True: grants from before no longer count, because rights were taken."""


class Disconnect(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="disconnect"):
    """Close the connections of a user or of a session. One of the fields is there."""

    user: str = ""
    """The primary key."""
    session: str = ""
    """See ``Identity.session``."""


class Permission(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="permission"):
    """Ask the policy again about subscriptions. Grants for them from before no longer count."""

    user: str = ""
    """The primary key; empty: every client's."""
    topic: str = ""
    """Those at, above and below it; empty: all."""

    def __post_init__(self) -> None:
        # A notice in the log comes with each start, and no process could do anything with this one.
        if self.topic:
            check(self.topic)


class Rules(Struct, frozen=True, tag_field="type", tag="rules"):
    """Read the topic rules again, then recheck every subscription. Grants still count: a view does not go by the rules."""


MAX_NOTICES: Final = 100_000
"""The number of notices that the log keeps for processes that start."""

NOTICE_BYTES: Final = 640
"""The bytes that the log has for each of them, on average: most are far smaller."""

Notice = Verify | Disconnect | Permission | Rules

EVERYTHING: Final = Permission()
"""In place of a notice that cannot be read, or was missed."""


class Dated(NamedTuple):
    """A notice, and when it was sent, in seconds since the epoch: what was decided before is not to be relied on."""

    notice: Notice
    at: float


OnNotice = Callable[[Dated], None]

encode: Final = msgspec.json.Encoder().encode
_decoder: Final[msgspec.json.Decoder[Notice]] = msgspec.json.Decoder(Notice)


def decode(data: bytes | Raw) -> Notice:
    """Read what ``encode`` made.

    Raises:
        DecodeError: it is no notice.
    """
    return _decoder.decode(data)


def publication_of(notice: Notice) -> Publication:
    """Return what carries ``notice``. As a peer's message it is not forwarded to peers."""
    return Publication(NOTICES, Raw(encode(notice)), now(), from_peer_server=True)


def missed() -> Dated:
    """Return what stands for notices that may have been sent until now and did not come."""
    return Dated(EVERYTHING, time())


def is_notice(publication: Publication) -> bool:
    """Return whether ``publication`` carries a notice."""
    return publication.from_peer_server and publication.topic == NOTICES


def notice_in(publication: Publication) -> Dated:
    """Return the notice that ``publication`` carries. One of another version stands for everything."""
    try:
        notice = decode(publication.message)
    except DecodeError:
        notice = EVERYTHING
    return Dated(notice, datetime.fromisoformat(publication.timestamp).timestamp())
