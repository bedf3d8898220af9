"""The grammar of web origins (RFC 6454): a scheme, a host and a port."""

import re
from typing import NamedTuple
from urllib.parse import urlsplit

# What no browser has in an origin: all but visible ASCII, and what would be a user, a wildcard or another path.
_FORBIDDEN = re.compile(r"[^!-~]|[@*\\]")

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """A scheme, a host and a port. The port is there if the scheme has a default one."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        port = "" if self.port == _DEFAULT_PORTS.get(self.scheme) else f":{self.port}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{port}"


def is_origin(text: str) -> bool:
    """Return whether ``text`` is an origin with a host: ``https://example.com:8443``, no path, no wildcard."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    return (
        bool(parts.scheme and parts.hostname)
        and port != 0
        and not _FORBIDDEN.search(text)
        and text.lower() == f"{parts.scheme}://{parts.netloc}".lower()
    )


def parse(text: str) -> Origin:
    """Parse an origin; ``is_origin(text)`` must hold."""
    parts = urlsplit(text)
    return Origin(
        parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)
    )
