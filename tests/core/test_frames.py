from dwsps_channels.core.frames import Frame


def test_text_is_the_data_decoded_once() -> None:
    frame = Frame('{"a":"☃"}'.encode())

    assert frame.text == '{"a":"☃"}'
    assert frame.text is frame.text


def test_its_length_is_in_bytes() -> None:
    assert len(Frame("☃".encode())) == 3
