"""A piece of history: what is asked for, and what is found."""

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from dwsps_channels.client.messages import Incoming


class HistoryQuery(Struct, frozen=True):
    """A topic, and where its history is to begin."""

    topic: str
    last: int | None = None
    """The number of messages, the newest; ``None``: all that a client would be sent again."""
    since: str | None = None
    """A cursor; then ``last`` is ``None``."""


class HistoryMessage(Struct, frozen=True):
    """A message that was published."""

    topic: str
    message: Any
    """The published value: any JSON value."""
    timestamp: str
    """RFC 3339: the publisher's time, else the server's."""
    offset: int
    """Its place in the log."""
    from_peer_server: bool = False
    """True if it was published on another server."""


class History(Struct, frozen=True):
    """The messages that were published at and below a topic, as far as they are kept."""

    messages: list[HistoryMessage]
    """The oldest first."""
    cursor: str
    """The end of the log at that moment: a subscription from here on misses nothing, and repeats none of ``messages``."""
    recovered: bool = True
    """False if ``since`` was given, and not all that was published after it is kept. Then ``messages`` is empty."""


def from_deliveries(deliveries: Iterable[Incoming]) -> list[HistoryMessage]:
    """Return the messages of deliveries that a server has made."""
    found = []
    for each in deliveries:
        delivery = each.delivery()
        found.append(
            HistoryMessage(
                delivery.topic,
                delivery.message,
                delivery.timestamp,
                each.place or 0,
                delivery.from_peer_server,
            )
        )
    return found
