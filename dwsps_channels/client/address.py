"""Where a server is: its URL, and the addresses that its host stands for."""

import asyncio
import socket
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, Final
from urllib.parse import unquote_plus, urlsplit, urlunsplit

from websockets.exceptions import InvalidURI
from websockets.uri import parse_uri

from dwsps_channels.client.errors import AddressNotAllowed, Unreachable

Sockaddr = tuple[Any, ...]
"""An address as sockets take it: of IPv4 or IPv6."""

_SCHEMES: Final = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}
# An IPv6-only network reaches IPv4 hosts by these (RFC 6052).
_NAT64: Final = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Address:
    """A server's URL, checked. Its text leaves out the query, where a token may be."""

    uri: str = field(repr=False)
    """All of it."""
    shown: str
    """The address without secrets, for people and logs."""
    secure: bool
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Check a URL; ``http`` and ``https`` become ``ws`` and ``wss``, and a fragment is dropped.

        Raises:
            ValueError: it is none, or has a user or a password in it. The text does not repeat the URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError("the server's URL is not one") from None
        scheme = _SCHEMES.get(parts.scheme)
        if scheme is None:
            raise ValueError("the server's URL must begin with ws:// or wss://")
        if not parts.hostname:
            raise ValueError("the server's URL has no host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("the server's URL must have no user and no password in it")
        # Control characters of every kind: the URL gets into logs.
        if " " in url or not url.isprintable():
            raise ValueError("the server's URL has a space or a control character")
        whole = parts._replace(scheme=scheme, fragment="")
        uri = urlunsplit(whole)
        try:
            parse_uri(uri)
        except (InvalidURI, UnicodeError):
            raise ValueError("the server's URL is not one") from None
        return cls(
            uri=uri,
            shown=urlunsplit(whole._replace(query="")),
            secure=scheme == "wss",
            host=parts.hostname,
            port=port or _DEFAULT_PORTS[scheme],
        )

    async def resolve(self) -> list[tuple[socket.AddressFamily, Sockaddr]]:
        """Look up the host's addresses, best first, without link-local ones.

        Connect to these and not to the name: it might stand for something else a moment later.

        Raises:
            Unreachable: nobody knows the name.
            AddressNotAllowed: all of its addresses are link-local.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError):
            raise self._unknown() from None
        return self._allowed(found)

    def resolve_blocking(self) -> list[tuple[socket.AddressFamily, Sockaddr]]:
        """Do as ``resolve``, and block meanwhile."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError):
            raise self._unknown() from None
        return self._allowed(found)

    def _unknown(self) -> Unreachable:
        return Unreachable(self.shown, f"the host {self.host!r} is not known")

    def _allowed(self, found: list[Any]) -> list[tuple[socket.AddressFamily, Sockaddr]]:
        allowed: list[tuple[socket.AddressFamily, Sockaddr]] = [
            (family, address)
            for family, _, _, _, address in found
            if not is_link_local(str(address[0]))
        ]
        if not allowed:
            raise AddressNotAllowed(self.shown, str(found[0][4][0]))
        return allowed


def take_since(url: str) -> tuple[str, str]:
    """Split the query's ``since`` off a URL; return the rest of the URL as it was, and the value or an empty text."""
    url, number_sign, fragment = url.partition("#")
    url, question_mark, query = url.partition("?")
    since, rest = "", []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name == "since":
            since = unquote_plus(value)
        else:
            rest.append(part)
    # Nothing is left of a query that was only this.
    query = question_mark + "&".join(rest) if rest else ""
    return url + query + number_sign + fragment, since


def is_link_local(address: str) -> bool:
    """Return whether an IP address is link-local: 169.254/16, fe80::/10, and IPv6 forms of the former."""
    parsed = ip_address(address)
    return parsed.is_link_local or (
        isinstance(parsed, IPv6Address)
        and (embedded := _embedded(parsed)) is not None
        and embedded.is_link_local
    )


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None
