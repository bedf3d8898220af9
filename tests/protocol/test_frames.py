import pytest

from dwsps_channels.protocol.frames import MAX_PIECE_BYTES, Frame, Frames, websocket_frame


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


def test_frames_are_joined_once() -> None:
    frames = Frames(Frame(b"%d" % number) for number in range(3))

    (piece,) = frames.pieces()
    assert piece == b"\x81\x010\x81\x011\x81\x012"
    assert frames.pieces()[0] is piece
    assert [frame.wire for frame in frames] == [None] * 3


def test_no_frames_are_no_piece() -> None:
    assert list(Frames().pieces()) == []


@pytest.mark.parametrize("size", [1, 100, 20_000, MAX_PIECE_BYTES - 4, MAX_PIECE_BYTES, 100_000])
def test_a_piece_is_of_whole_frames_and_bounded(size: int) -> None:
    frames = Frames([Frame(b"x" * size), Frame(b""), *[Frame(b"y" * size)] * 12])
    wires = [frame.make_wire() for frame in frames]

    pieces = frames.pieces()

    assert b"".join(pieces) == b"".join(wires)
    assert all(len(piece) <= MAX_PIECE_BYTES or piece in wires for piece in pieces)
    ends = {len(b"".join(wires[:count])) for count in range(len(wires) + 1)}
    assert {len(b"".join(pieces[:count])) for count in range(len(pieces) + 1)} <= ends


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
