import pytest

from dwsps_channels.protocol.frames import Frame, websocket_frame


def test_text_is_the_data_decoded_once() -> None:
    frame = Frame('{"a":"☃"}'.encode())

    assert frame.text == '{"a":"☃"}'
    assert frame.text is frame.text


def test_its_length_is_in_bytes() -> None:
    assert len(Frame("☃".encode())) == 3


def test_the_websocket_frame_is_made_once_when_asked_for() -> None:
    frame = Frame(b"{}")
    assert frame.wire is None

    assert frame.make_wire() == b"\x81\x02{}"
    assert frame.wire == b"\x81\x02{}"


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x82\x00"),
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (65_535, b"\x82\x7e\xff\xff"),
        (65_536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_length_takes_no_more_bytes_than_it_needs(size: int, head: bytes) -> None:
    """RFC 6455, section 5.2."""
    assert websocket_frame(0x2, b"x" * size) == head + b"x" * size
