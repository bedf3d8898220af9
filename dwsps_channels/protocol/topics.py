"""Topics: levels joined by ``.``; a subscriber of ``news`` also gets ``news.uk.london``.

Grammar: docs/reference/protocol.md, "Topics".
"""

import re
from functools import lru_cache
from typing import Final

from dwsps_channels.protocol.errors import InvalidTopic

MAX_BYTES = 255
MAX_LEVELS = 32

# The root of the topics that the servers use themselves.
RESERVED: Final = "$dwsps"
NOTICES: Final = f"{RESERVED}.notice"
"""The topic of what a server's processes tell each other."""
_BELOW_RESERVED: Final = f"{RESERVED}."

# What a level may not hold: the separator, white space, control characters (C0, DEL, C1), surrogates.
_FORBIDDEN = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")


# Bounded by what the worst topics cost: 1024 of 255 bytes and 32 levels, with one character from beyond the BMP,
# which makes Python store all of them in four bytes each, are 30 MiB.
@lru_cache(maxsize=1024)
def contexts(topic: str) -> tuple[str, ...]:
    """Return the topics whose subscribers get what is published to ``topic``: itself first, then its ancestors.

    >>> contexts("news.uk.london")
    ('news.uk.london', 'news.uk', 'news')

    ``NOTICES`` has contexts, as the log has it: refuse it, if ``topic`` comes from outside.

    Raises:
        InvalidTopic: it does not fit the grammar, or is reserved.
    """
    if topic != NOTICES:
        check(topic)
    found = [topic]
    end = topic.rfind(".")
    while end != -1:
        found.append(topic[:end])
        end = topic.rfind(".", 0, end)
    return tuple(found)


def size(topic: str) -> int:
    """Return the size of a valid topic, in bytes of UTF-8."""
    return len(topic) if topic.isascii() else len(topic.encode())


def check(topic: str) -> None:
    """Raise ``InvalidTopic``, with what is wrong, unless ``topic`` fits the grammar and is not reserved."""
    if not topic:
        raise InvalidTopic(topic, "is empty")
    # The cheap bound first: the pattern is never run over a text that is too long anyway.
    if len(topic) > MAX_BYTES:
        raise InvalidTopic(topic, f"is longer than {MAX_BYTES} bytes of UTF-8")
    if _FORBIDDEN.search(topic):
        raise InvalidTopic(topic, "has a space, a control character or a lone surrogate")
    if len(topic.encode()) > MAX_BYTES:
        raise InvalidTopic(topic, f"is longer than {MAX_BYTES} bytes of UTF-8")
    if topic.count(".") >= MAX_LEVELS:
        raise InvalidTopic(topic, f"has more than {MAX_LEVELS} levels")
    if topic[0] == "." or topic[-1] == "." or ".." in topic:
        raise InvalidTopic(topic, "has an empty level")
    if topic[0] == "$" and (topic == RESERVED or topic.startswith(_BELOW_RESERVED)):
        raise InvalidTopic(topic, f"is reserved: '{RESERVED}' and all below it is the server's")
