"""The opening handshake: the client's request read, and answered (RFC 6455, section 4.2)."""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha1
from http import HTTPStatus

Headers = list[tuple[bytes, bytes]]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION = b"13"

# RFC 9112, sections 3 and 5, without what nearly no client sends: another form of target, folded lines.
_PLAIN = re.compile(
    rb"GET /[!-~]* HTTP/1\.1\r\n"
    rb"(?:[-!#$%&'*+.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)+"
    rb"\r\n"
)
# The headers that decide what an HTTP server does with a request: for a handshake the first two alternatives, once each.
_DECIDING = re.compile(
    rb"\n(?:(connection):|(upgrade):[ \t]*websocket\r|"
    rb"(?:upgrade|content-length|transfer-encoding|expect):)",
    re.IGNORECASE,
)

_BREAK = re.compile(rb"[\r\n\0]")


def is_plain(request: bytes) -> bool:
    """Tell whether ``request`` is a whole, well-formed GET that asks for a websocket and nothing else.

    Then HTTP servers agree about it, and ``HandshakeRequest`` need not be preceded by an HTTP parser.
    """
    if _PLAIN.fullmatch(request) is None:
        return False
    deciding = _DECIDING.findall(request)
    return (
        len(deciding) == 2
        and any(connection for connection, _ in deciding)
        and any(upgrade for _, upgrade in deciding)
    )


class HandshakeRejected(Exception):
    """A request that is no opening handshake; ``response`` says why."""

    def __init__(
        self, status: HTTPStatus, reason: str, headers: Sequence[tuple[bytes, bytes]] = ()
    ):
        super().__init__(reason)
        self.status = status
        self.response = http_response(
            status, [(b"content-type", b"text/plain; charset=utf-8"), *headers], reason.encode()
        )


class HandshakeRequest:
    """The client's request, as far as an ASGI scope shows it; header names are in lower case."""

    __slots__ = ("headers", "key", "query", "raw_path", "subprotocols")

    def __init__(self, head: bytes) -> None:
        """Read a request, which the HTTP protocol has already found to be well formed.

        Raises:
            HandshakeRejected: it does not open a websocket connection.
        """
        request_line, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        method, target, _ = request_line.split(b" ")
        self.raw_path, _, self.query = target.partition(b"?")
        self.headers: Headers = []
        values: dict[bytes, list[bytes]] = {}
        for line in lines:
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip(b" \t")
            self.headers.append((name, value))
            values.setdefault(name, []).append(value)
        if method != b"GET":
            raise HandshakeRejected(
                HTTPStatus.METHOD_NOT_ALLOWED, "not a GET request", [(b"allow", b"GET")]
            )
        if b"upgrade" not in _tokens(values.get(b"connection", ())):
            raise HandshakeRejected(
                HTTPStatus.BAD_REQUEST, "the Connection header does not say Upgrade"
            )
        if b"websocket" not in _tokens(values.get(b"upgrade", ())):
            raise HandshakeRejected(
                HTTPStatus.BAD_REQUEST, "the Upgrade header does not say websocket"
            )
        if len(values.get(b"host", ())) != 1:
            raise HandshakeRejected(HTTPStatus.BAD_REQUEST, "there has to be one Host header")
        if values.get(b"sec-websocket-version") != [_VERSION]:
            raise HandshakeRejected(
                HTTPStatus.UPGRADE_REQUIRED,
                "the websocket version has to be 13",
                [(b"sec-websocket-version", _VERSION), (b"upgrade", b"websocket")],
            )
        keys = values.get(b"sec-websocket-key", ())
        if len(keys) != 1 or not _is_key(keys[0]):
            raise HandshakeRejected(
                HTTPStatus.BAD_REQUEST, "there has to be one Sec-WebSocket-Key of 16 bytes"
            )
        self.key = keys[0]
        self.subprotocols = [
            offered.strip().decode("latin-1")
            for value in values.get(b"sec-websocket-protocol", ())
            for offered in value.split(b",")
        ]

    def accept(self, headers: Iterable[tuple[bytes, bytes]], subprotocol: str | None) -> bytes:
        """Make the response that opens the connection."""
        lines = [
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + b64encode(sha1(self.key + _GUID).digest()) + b"\r\n"
        ]
        if subprotocol:
            lines.append(_line(b"Sec-WebSocket-Protocol", subprotocol.encode("latin-1")))
        lines += [_line(name, value) for name, value in headers]
        lines.append(b"\r\n")
        return b"".join(lines)


def http_response(
    status: int, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes = b""
) -> bytes:
    """Make a response after which the connection is closed; ``headers`` replace those that are added by default."""
    try:
        phrase = HTTPStatus(status).phrase.encode()
    except ValueError:
        phrase = b""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    for name, value in (
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ):
        if name not in names:
            given.append((name, value))
    lines = [b"HTTP/1.1 ", str(status).encode(), b" ", phrase, b"\r\n"]
    return b"".join([*lines, *(_line(name, value) for name, value in given), b"\r\n", body])


def _tokens(values: Iterable[bytes]) -> set[bytes]:
    return {token.strip().lower() for value in values for token in value.split(b",")}


def _line(name: bytes, value: bytes) -> bytes:
    # What an application gives us must not become another header.
    if _BREAK.search(name) or _BREAK.search(value):
        raise ValueError(f"a header must have neither line break nor null: {name!r}")
    return b"%b: %b\r\n" % (name, value)


def _is_key(key: bytes) -> bool:
    try:
        return len(b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False
