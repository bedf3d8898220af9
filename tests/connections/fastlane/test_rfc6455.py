"""RFC 6455, clause by clause, on a raw socket against an echo; the numbers are its sections."""

import time
from collections.abc import Iterator

import pytest

from tests.connections.fastlane.raw import (
    ACCEPT,
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawClient,
    Received,
    close,
    frame,
    raw_client,
)
from tests.processes import Server

LIMIT = 1_000_000


@pytest.fixture
def client(server: Server) -> Iterator[RawClient]:
    with raw_client(server.port) as client:
        yield client


@pytest.fixture
def echo(client: RawClient) -> RawClient:
    client.open("/echo/")
    return client


def text(payload: str | bytes) -> Received:
    return Received(TEXT, payload.encode() if isinstance(payload, str) else payload)


def binary(payload: bytes) -> Received:
    return Received(BINARY, payload)


def pong(payload: bytes) -> Received:
    return Received(PONG, payload)


# 4.2: the opening handshake


class TestOpening:
    def test_it_is_answered_with_the_key_s_digest(self, client: RawClient) -> None:
        headers = client.open()
        assert headers["sec-websocket-accept"].encode() == ACCEPT
        assert headers["upgrade"] == "websocket"
        assert headers["connection"] == "Upgrade"
        assert "sec-websocket-extensions" not in headers
        assert "sec-websocket-protocol" not in headers

    def test_header_names_and_tokens_may_be_in_any_case(self, client: RawClient) -> None:
        client.open(Connection="keep-alive, UPGRADE", Upgrade="WebSocket")

    def test_extensions_that_are_offered_are_declined(self, client: RawClient) -> None:
        headers = client.open(Sec_WebSocket_Extensions="permessage-deflate")
        assert "sec-websocket-extensions" not in headers

    @pytest.mark.parametrize("version", ["8", "0", "14", "", "13, 8", "13\n13", None])
    def test_another_version_is_told_which_one_we_speak(
        self, client: RawClient, version: str | None
    ) -> None:
        client.send(client.request(Sec_WebSocket_Version=version))
        status, headers = client.response()
        assert (status, headers["sec-websocket-version"]) == (426, "13")

    @pytest.mark.parametrize(
        "key",
        [
            None,
            "",
            "AAAA",
            "not base64 at all!!!!!!!",
            "MDEyMzQ1Njc4OWFiY2RlZmc=",
            "MDEyMzQ1Njc4OWFiY2RlZg==\nMDEyMzQ1Njc4OWFiY2RlZg==",
        ],
    )
    def test_a_key_has_to_be_there_once_with_16_bytes(
        self, client: RawClient, key: str | None
    ) -> None:
        client.send(client.request(Sec_WebSocket_Key=key))
        assert client.response()[0] == 400

    def test_another_method_opens_nothing(self, client: RawClient) -> None:
        client.send(client.request(method="POST", Content_Length="0"))
        assert client.response()[0] == 405

    def test_what_is_sent_before_the_answer_is_no_harm(self, client: RawClient) -> None:
        client.send(client.request("/late/"))
        time.sleep(0.05)  # so that it comes in a segment of its own, within the application's 0.3 s
        client.send(frame(TEXT, b"one") + frame(TEXT, b"two"))
        assert client.response()[0] == 101
        assert [client.receive() for _ in range(2)] == [text("one"), text("two")]

    def test_the_connection_ends_after_a_refusal(self, client: RawClient) -> None:
        client.send(client.request(Sec_WebSocket_Key=None))
        assert b"Sec-WebSocket-Key" in client.rest()


# 5.2, 5.4, 5.6: messages


ECHOED = [
    ("an empty text", frame(TEXT), text("")),
    ("an empty binary", frame(BINARY), binary(b"")),
    ("a short text", frame(TEXT, b"Hello"), text("Hello")),
    ("a mask of zeros", frame(TEXT, b"Hello", mask=bytes(4)), text("Hello")),
    ("125 bytes", frame(TEXT, b"x" * 125), text("x" * 125)),
    ("126 bytes", frame(TEXT, b"x" * 126), text("x" * 126)),
    ("127 bytes", frame(BINARY, b"\xfe" * 127), binary(b"\xfe" * 127)),
    ("65535 bytes", frame(BINARY, b"\xfe" * 65_535), binary(b"\xfe" * 65_535)),
    ("65536 bytes", frame(BINARY, b"\xfe" * 65_536), binary(b"\xfe" * 65_536)),
    ("the most bytes", frame(BINARY, b"x" * LIMIT), binary(b"x" * LIMIT)),
    ("text beyond ASCII", frame(TEXT, "ü☃😀\0".encode()), text("ü☃😀\0")),
    ("binary that is no UTF-8", frame(BINARY, b"\xff\xfe"), binary(b"\xff\xfe")),
    (
        "two fragments",
        frame(TEXT, b"Hel", fin=False) + frame(CONTINUATION, b"lo"),
        text("Hello"),
    ),
    (
        "empty fragments",
        frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION),
        text(""),
    ),
    (
        "a character across fragments",
        frame(TEXT, b"\xe2\x98", fin=False) + frame(CONTINUATION, b"\x83"),
        text("☃"),
    ),
    (
        "fragments of different sizes",
        frame(BINARY, b"a" * 10, fin=False)
        + frame(CONTINUATION, b"b" * 200, fin=False)
        + frame(CONTINUATION, b"c" * 70_000),
        binary(b"a" * 10 + b"b" * 200 + b"c" * 70_000),
    ),
    (
        "a thousand fragments",
        frame(TEXT, b"x", fin=False)
        + frame(CONTINUATION, b"x", fin=False) * 998
        + frame(CONTINUATION, b"x"),
        text("x" * 1000),
    ),
]


@pytest.mark.parametrize(
    ("sent", "echoed"), [case[1:] for case in ECHOED], ids=[case[0] for case in ECHOED]
)
class TestMessages:
    def test_at_once(self, echo: RawClient, sent: bytes, echoed: Received) -> None:
        echo.send(sent)
        assert echo.receive() == echoed
        echo.send(close(1000))
        assert list(echo.frames()) == [(CLOSE, b"\x03\xe8")]

    def test_in_pieces(self, echo: RawClient, sent: bytes, echoed: Received) -> None:
        # The first bytes one by one: each header is cut everywhere.
        for index in range(min(len(sent), 24)):
            echo.send(sent[index : index + 1])
        echo.send(sent[24:])
        assert echo.receive() == echoed


class TestOrder:
    def test_many_messages_in_one_segment(self, echo: RawClient) -> None:
        echo.send(b"".join(frame(TEXT, b"%d" % number) for number in range(2000)))
        assert [echo.receive() for _ in range(2000)] == [text(str(n)) for n in range(2000)]

    def test_a_message_before_a_violation_is_handled(self, echo: RawClient) -> None:
        echo.send(frame(TEXT, b"Hello"))
        assert echo.receive() == text("Hello")
        echo.send(frame(TEXT, b"Hello", reserved=1))
        assert violation(echo) == 1002


# 5.5: control frames


class TestControl:
    @pytest.mark.parametrize("payload", [b"", b"Hello", b"\xff\0", b"x" * 125])
    def test_a_ping_is_answered_with_its_payload(self, echo: RawClient, payload: bytes) -> None:
        echo.send(frame(PING, payload))
        assert echo.receive() == pong(payload)

    def test_every_ping_is_answered_in_order(self, echo: RawClient) -> None:
        echo.send(b"".join(frame(PING, b"%d" % number) for number in range(100)))
        assert [echo.receive() for _ in range(100)] == [pong(b"%d" % n) for n in range(100)]

    def test_a_pong_that_nobody_asked_for_is_ignored(self, echo: RawClient) -> None:
        echo.send(frame(PONG, b"x"), frame(PONG), frame(TEXT, b"Hello"))
        assert echo.receive() == text("Hello")

    def test_they_come_between_fragments(self, echo: RawClient) -> None:
        echo.send(
            frame(TEXT, b"Hel", fin=False)
            + frame(PING, b"1")
            + frame(PONG)
            + frame(CONTINUATION, b"l", fin=False)
            + frame(PING, b"2")
            + frame(CONTINUATION, b"o")
        )
        assert [echo.receive() for _ in range(3)] == [pong(b"1"), pong(b"2"), text("Hello")]


# 5.5.1, 7: the close


CLOSED = [
    ("no code", close(), b""),
    *(
        (str(code), close(code), code.to_bytes(2, "big"))
        for code in (1000, 1001, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999)
    ),
    ("a reason", close(1000, "ü☃".encode()), b"\x03\xe8"),
    ("the longest reason", close(1000, b"x" * 123), b"\x03\xe8"),
    ("within a message", frame(TEXT, b"Hel", fin=False) + close(1000), b"\x03\xe8"),
]


class TestClose:
    @pytest.mark.parametrize(
        ("sent", "answer"), [case[1:] for case in CLOSED], ids=[case[0] for case in CLOSED]
    )
    def test_it_is_answered_with_its_code_and_the_connection_ends(
        self, echo: RawClient, sent: bytes, answer: bytes
    ) -> None:
        echo.send(sent)
        assert list(echo.frames()) == [(CLOSE, answer)]

    def test_what_comes_after_it_is_ignored(self, echo: RawClient) -> None:
        echo.send(close(1000) + frame(TEXT, b"Hello") + frame(PING) + frame(0xB, reserved=7))
        assert list(echo.frames()) == [(CLOSE, b"\x03\xe8")]

    def test_the_server_s_own_is_answered_by_the_client_s(self, client: RawClient) -> None:
        client.open("/closing/")
        client.send(frame(TEXT, b"close"))
        assert client.receive() == (CLOSE, (4321).to_bytes(2, "big") + b"as you said")
        client.send(frame(TEXT, b"in between") + frame(PING, b"in between"))
        client.send(close(4321))
        assert list(client.frames()) == []

    def test_a_client_that_does_not_answer_the_server_s_is_cut_off(self, client: RawClient) -> None:
        client.open("/closing/")
        client.send(frame(TEXT, b"close"))
        assert client.receive().opcode == CLOSE
        assert list(client.frames()) == []


# 5.1 to 5.6, 7.1.7, 8.1, 10.4: what fails the connection


def violation(client: RawClient) -> int:
    """The code that the connection is failed with; nothing else comes, and it ends."""
    (only,) = client.frames()
    assert only.opcode == CLOSE
    assert only.payload[2:].decode(), "it says why"
    return int.from_bytes(only.payload[:2], "big")


VIOLATIONS = [
    ("a frame without mask", frame(TEXT, b"Hello", mask=None), 1002),
    ("an empty frame without mask", frame(TEXT, mask=None), 1002),
    ("a control frame without mask", frame(PING, mask=None), 1002),
    *((f"reserved bits {bits}", frame(TEXT, b"x", reserved=bits), 1002) for bits in (1, 2, 4, 7)),
    ("a reserved bit in a control frame", frame(PING, reserved=4), 1002),
    ("a reserved bit in a continuation", frame(TEXT, fin=False) + frame(0, reserved=4), 1002),
    *(
        (f"opcode {code}", frame(code, b"x"), 1002)
        for code in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)
    ),
    ("a fragmented ping", frame(PING, fin=False), 1002),
    ("a fragmented close", frame(CLOSE, b"\x03\xe8", fin=False), 1002),
    ("a ping of 126 bytes", frame(PING, b"x" * 126), 1002),
    ("a pong of 65536 bytes", frame(PONG, b"x" * 65_536), 1002),
    ("a close of 126 bytes", close(1000, b"x" * 124), 1002),
    ("a continuation of nothing", frame(CONTINUATION, b"x"), 1002),
    ("a last fragment twice", frame(TEXT, fin=False) + frame(0) + frame(0), 1002),
    ("a message within another", frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
    ("a binary within a text", frame(TEXT, b"x", fin=False) + frame(BINARY, b"y"), 1002),
    ("a length in 2 bytes too many", frame(TEXT, b"x" * 125, length=b"\x7e\0\x7d"), 1002),
    (
        "a length in 8 bytes too many",
        frame(TEXT, b"x" * 200, length=b"\x7f" + (200).to_bytes(8, "big")),
        1002,
    ),
    ("a length of 64 bits", frame(BINARY, length=b"\x7f" + b"\xff" * 8), 1002),
    ("text that is no UTF-8", frame(TEXT, b"\xff"), 1007),
    ("text that ends within a character", frame(TEXT, b"\xe2\x98"), 1007),
    ("text with a surrogate", frame(TEXT, b"\xed\xa0\x80"), 1007),
    ("text in overlong form", frame(TEXT, b"\xc0\xaf"), 1007),
    (
        "no UTF-8 across fragments",
        frame(TEXT, b"\xe2\x98", fin=False) + frame(CONTINUATION, b"\xff"),
        1007,
    ),
    ("a close of one byte", frame(CLOSE, b"\x03"), 1002),
    *(
        (f"a close with {code}", close(code), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    ),
    ("a reason that is no UTF-8", close(1000, b"\xff"), 1007),
    ("a message too large", frame(BINARY, length=b"\x7f" + (LIMIT + 1).to_bytes(8, "big")), 1009),
    (
        "fragments too large together",
        frame(BINARY, b"x" * (LIMIT - 1), fin=False) + frame(CONTINUATION, b"xx"),
        1009,
    ),
    (
        "too many fragments",
        frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 65_536,
        1009,
    ),
]


@pytest.mark.parametrize(
    ("sent", "code"), [case[1:] for case in VIOLATIONS], ids=[case[0] for case in VIOLATIONS]
)
def test_violation_fails_the_connection(echo: RawClient, sent: bytes, code: int) -> None:
    echo.send(sent)
    assert violation(echo) == code


@pytest.mark.parametrize(
    "head",
    [
        bytes([0xC1, 0x80]),
        bytes([0x83, 0x80]),
        bytes([0x81, 0x01]),
        bytes([0x09, 0x80]),
        bytes([0x89, 0xFE]),
        bytes([0x80, 0x80]),
        bytes([0x82, 0xFF]) + (LIMIT + 1).to_bytes(8, "big"),
    ],
)
def test_violation_in_a_header_is_not_waited_with(echo: RawClient, head: bytes) -> None:
    """Else a client would have to send what nobody wants before it learns so."""
    echo.send(head)
    assert violation(echo) in (1002, 1009)


def test_the_server_is_alive_and_said_nothing_of_all_that(server: Server) -> None:
    with raw_client(server.port) as client:
        client.open()
        assert client.is_alive()
    assert "Traceback" not in server.log
    assert "ERROR" not in server.log
