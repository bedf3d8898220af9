"""The opening handshake: which requests open a connection, and the answers."""

import pytest

from dwsps_channels.connections.websocket.handshake import (
    HandshakeRejected,
    HandshakeRequest,
    http_response,
)

HEADERS = {
    b"Host": b"example.com",
    b"Upgrade": b"websocket",
    b"Connection": b"keep-alive, Upgrade",
    b"Sec-WebSocket-Version": b"13",
    b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ==",
}


def head(line: bytes = b"GET /pubsub/?a=b HTTP/1.1", **changes: bytes | None) -> bytes:
    """A request; ``changes`` replaces headers, by names with ``_`` for ``-``, or takes them out."""
    headers = {name.lower(): value for name, value in HEADERS.items()}
    for name, value in changes.items():
        key = name.replace("_", "-").encode()
        if value is None:
            del headers[key]
        else:
            headers[key] = value
    lines = [line, *(name + b": " + value for name, value in headers.items())]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def test_a_request_is_read() -> None:
    request = HandshakeRequest(head(sec_websocket_protocol=b"one, two"))
    assert (request.raw_path, request.query) == (b"/pubsub/", b"a=b")
    assert (b"host", b"example.com") in request.headers
    assert request.subprotocols == ["one", "two"]


def test_it_is_answered_as_in_the_rfc_s_example() -> None:
    response = HandshakeRequest(head()).accept([(b"X-More", b"1")], "two")
    status, *headers = response.split(b"\r\n")
    assert status == b"HTTP/1.1 101 Switching Protocols"
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in headers
    assert b"Sec-WebSocket-Protocol: two" in headers
    assert b"X-More: 1" in headers
    assert response.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (head(b"POST / HTTP/1.1"), 405),
        (head(connection=b"keep-alive"), 400),
        (head(upgrade=b"h2c"), 400),
        (head(host=None), 400),
        (head(sec_websocket_version=b"8"), 426),
        (head(sec_websocket_version=None), 426),
        (head(sec_websocket_key=None), 400),
        (head(sec_websocket_key=b"c2hvcnQ="), 400),
        (head(sec_websocket_key=b"no base64"), 400),
    ],
)
def test_a_request_that_opens_nothing_is_rejected(request_head: bytes, status: int) -> None:
    with pytest.raises(HandshakeRejected) as rejected:
        HandshakeRequest(request_head)
    assert rejected.value.status == status
    assert rejected.value.response.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("value", [b"a\r\nX-Other: b", b"a\nb", b"a\0"])
def test_a_header_of_the_application_becomes_no_other_header(value: bytes) -> None:
    with pytest.raises(ValueError, match="neither line break nor null"):
        HandshakeRequest(head()).accept([(b"X-More", value)], None)


def test_a_given_header_replaces_the_default() -> None:
    response = http_response(503, [(b"Content-Type", b"application/json")], b"{}")
    assert response.count(b"ontent-") == 2
    assert b"Content-Type: application/json\r\n" in response
    assert b"content-length: 2\r\n" in response
    assert response.endswith(b"\r\n\r\n{}")
